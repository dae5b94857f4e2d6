//! Code page 437: the characters of text modes.

const UPPER: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
const CONTROLS: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";

/// The character that a byte shows.
pub(crate) fn character(byte: u8) -> char {
    match byte {
        0..0x20 => CONTROLS.chars().nth(byte.into()).unwrap_or(' '),
        0x7f => '⌂',
        0x80.. => UPPER.chars().nth(usize::from(byte) - 0x80).unwrap_or(' '),
        _ => byte.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::character;

    #[test]
    fn complete() {
        assert_eq!([0, 1, 0x1f, b'A', 0xc4, 0xdb, 0xff].map(character), [' ', '☺', '▼', 'A', '─', '█', '\u{a0}']);
    }
}
