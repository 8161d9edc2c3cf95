//! Tokens of blocks and of pages. Nobody is kept out by them, so they are only told apart, not sealed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The token that opens a block until a time.
pub(super) fn block(snapshot: &str, block: u32, until: u64) -> String {
    STANDARD.encode(format!("{snapshot}/{block}/{until}"))
}

/// Whether a token opens a block now.
pub(super) fn opens(token: &str, snapshot: &str, block: u32, now: u64) -> bool {
    let Some(text) = STANDARD.decode(token).ok().and_then(|b| String::from_utf8(b).ok()) else { return false };
    let until = text.strip_prefix(&format!("{snapshot}/{block}/")).and_then(|t| t.parse::<u64>().ok());
    until.is_some_and(|until| now < until)
}

/// The token of the page that begins with a block.
pub(super) fn page(from: u32) -> String {
    STANDARD.encode(format!("page/{from}"))
}

/// The block that a page begins with.
pub(super) fn read_page(token: &str) -> Option<u32> {
    let text = String::from_utf8(STANDARD.decode(token).ok()?).ok()?;
    text.strip_prefix("page/")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_its_own_block_for_its_time() {
        let token = block("snap-1", 7, 100);
        assert!(opens(&token, "snap-1", 7, 99));
        for (snapshot, n, now) in [("snap-2", 7, 99), ("snap-1", 8, 99), ("snap-1", 7, 100)] {
            assert!(!opens(&token, snapshot, n, now));
        }
        assert_eq!((read_page(&page(9)), read_page("??")), (Some(9), None));
    }
}
