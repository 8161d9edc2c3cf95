//! GRUB's environment block: a head, `name=value` lines, filled up with `#` to 1,024 bytes, which GRUB itself writes over in place.

/// The first line.
const HEAD: &str = "# GRUB Environment Block\n";

/// `text` with the variable `name` changed; nothing when it has none.
///
/// # Errors
/// What is wrong with it.
pub fn change(text: &str, name: &str, with: impl Fn(&str) -> String) -> Result<Option<String>, &'static str> {
    let Some(body) = text.strip_prefix(HEAD) else { return Ok(None) };
    // A value may have an escaped line feed in it: lines end at those that are not.
    let (mut lines, mut line, mut chars) = (Vec::new(), String::new(), body.chars());
    while let Some(c) = chars.next() {
        match c {
            '\n' => lines.push(std::mem::take(&mut line)),
            '\\' => {
                line.push(c);
                line.extend(chars.next());
            }
            c => line.push(c),
        }
    }
    // What is left is the filling.
    let mut found = false;
    let mut out = HEAD.to_owned();
    for line in &lines {
        match line.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
            Some(value) => {
                found = true;
                let value = with(&value.replace("\\\\", "\\"));
                out.push_str(&format!("{name}={}", value.replace('\\', "\\\\").replace('\n', "\\\n")));
            }
            None => out.push_str(line),
        }
        out.push('\n');
    }
    let room = text.chars().count().max(1024);
    let used = out.chars().count();
    if !found {
        return Ok(None);
    }
    if used > room {
        return Err("GRUB's environment block has no room for the arguments");
    }
    out.extend(std::iter::repeat_n('#', room - used));
    Ok(Some(out))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn block(lines: &str) -> String {
        let mut text = format!("{HEAD}{lines}");
        text.extend(std::iter::repeat_n('#', 1024 - text.len()));
        text
    }

    #[test]
    fn one_variable_is_changed_and_the_size_stays() {
        let text = block("saved_entry=a=b\nkernelopts=ro \nx=1\\\n2\n");
        let changed = change(&text, "kernelopts", |old| format!("{old}quiet")).expect("room").expect("found");
        assert_eq!(changed, block("saved_entry=a=b\nkernelopts=ro quiet\nx=1\\\n2\n"));
        assert_eq!(change(&block("a=1\n"), "kernelopts", |_| String::new()), Ok(None));
        assert_eq!(change("something else", "a", |_| String::new()), Ok(None));
        assert!(change(&text, "kernelopts", |_| "x".repeat(1024)).is_err());
    }
}
