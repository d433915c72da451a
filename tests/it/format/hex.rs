//! Bytes as text that can be read, compared and turned back (`xxd -r`): 16 bytes a line.

use std::fmt::Write as _;

/// Writes bytes as `xxd` does, without blanks at the end of a line.
pub fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (line, bytes) in bytes.chunks(16).enumerate() {
        let pairs: Vec<_> = bytes
            .chunks(2)
            .map(|pair| pair.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")))
            .collect();
        let shown = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' };
        let shown: String = bytes.iter().map(shown).collect();
        let line = format!("{:08x}: {:<39}  {shown}", line * 16, pairs.join(" "));
        writeln!(text, "{}", line.trim_end()).unwrap();
    }
    text
}

/// Reads what [`dump`] wrote.
pub fn parse(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.lines() {
        let (offset, rest) = line.split_once(": ").expect("an offset");
        assert_eq!(usize::from_str_radix(offset, 16), Ok(bytes.len()), "{line}");
        let digits: String = rest.split("  ").next().unwrap().split(' ').collect();
        for pair in digits.as_bytes().chunks(2) {
            bytes.push(u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
        }
    }
    bytes
}

#[test]
fn a_dump_can_be_turned_back() {
    let bytes: Vec<u8> = (0..=255).chain([b' '; 23]).collect();
    for len in [0, 1, 15, 16, 17, bytes.len()] {
        assert_eq!(parse(&dump(&bytes[..len])), bytes[..len]);
    }
    assert_eq!(
        dump(b"strong  room"),
        "00000000: 7374 726f 6e67 2020 726f 6f6d            strong  room\n"
    );
}
