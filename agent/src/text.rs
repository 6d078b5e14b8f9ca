//! Texts of the host's that are kept and sent: never longer than they may be.

/// The beginning of a text, at most `bytes_max` bytes; an ellipsis says that its end was dropped.
pub(crate) fn shortened(text: &str, bytes_max: usize) -> String {
    const ELLIPSIS: &str = "…";
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let room = bytes_max.saturating_sub(ELLIPSIS.len());
    let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{ELLIPSIS}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortened_text_fits_and_is_not_shortened_again() {
        for text in ["", "short", &"x".repeat(99), &"ü".repeat(99)] {
            let once = shortened(text, 50);
            assert!(once.len() <= 50, "{once}");
            assert_eq!(shortened(&once, 50), once);
            assert_eq!(once == text, text.len() <= 50);
        }
    }
}
