//! JSON arrays as tables for people.

use serde_json::Value;

/// `rows` with the columns `columns` (head, field).
pub(super) fn table(rows: &[Value], columns: &[(&str, &str)], heads: bool) -> String {
    let text = |row: &Value, field: &str| match &row[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.replace('\n', "\\n"),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    };
    let mut lines: Vec<Vec<String>> = Vec::new();
    if heads {
        lines.push(columns.iter().map(|(head, _)| (*head).to_owned()).collect());
    }
    lines.extend(rows.iter().map(|row| columns.iter().map(|(_, field)| text(row, field)).collect()));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// `value` as YAML.
pub(super) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    write_yaml(value, 0, &mut out);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// Scalars are written as in JSON, which is YAML too and needs no rules of its own.
fn write_yaml(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (number, (key, value)) in map.iter().enumerate() {
                if number > 0 || !out.ends_with("- ") {
                    out.push_str(&indent);
                }
                out.push_str(&format!("{}:", Value::from(key.as_str())));
                below(value, depth, out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                out.push_str(&indent);
                out.push_str("- ");
                write_yaml(value, depth + 1, out);
                if !out.ends_with('\n') {
                    out.push('\n');
                }
            }
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn below(value: &Value, depth: usize, out: &mut String) {
    let nests = value.as_object().is_some_and(|map| !map.is_empty()) || value.as_array().is_some_and(|l| !l.is_empty());
    if nests {
        out.push('\n');
        write_yaml(value, depth + 1, out);
    } else {
        out.push_str(&format!(" {value}\n"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_nests() {
        let value = json!({"a": [{"b": 1, "c": ["x", [], {}]}, "y: z"], "d": {"e": null}});
        let want = "\"a\":\n  - \"b\": 1\n    \"c\":\n      - \"x\"\n      - []\n      - {}\n  - \"y: z\"\n\"d\":\n  \"e\": null\n";
        assert_eq!(yaml(&value), want);
    }
}
