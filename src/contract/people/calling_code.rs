//! Country codes of E.164 numbers.
//!
//! - Assigned codes: ITU-T, "List of Recommendation ITU-T E.164 assigned country codes" (annex to Operational Bulletin
//!   1114, position on 15 December 2016), with the amendments in later bulletins. Codes that are assigned or reserved
//!   but that no network serves are absent, such as 379: the Vatican's numbers begin with 39.
//! - Digits in a number: at most 15 (ITU-T E.164). E.164 sets no minimum. This contract requires 7.
//! - Fixed lengths: ITU-T E.169.1 (universal freephone numbers), E.169.2 (premium rate), E.169.3 (shared cost).
//!
//! The plans of countries and networks fix further lengths. They are not checked, because numbering plans change more
//! often than deployed programs. `tests/promises/phone_numbers.rs` compares this table with libphonenumber's.

/// The country codes whose numbers have no length fixed by the ITU, ascending. No code is the beginning of another one.
#[rustfmt::skip]
const ANY_LENGTH: [u16; 212] = [
    1, 7,
    20, 27, 30, 31, 32, 33, 34, 36, 39, 40, 41, 43, 44, 45, 46, 47, 48, 49, 51, 52, 53, 54, 55, 56, 57, 58, 60,
    61, 62, 63, 64, 65, 66, 81, 82, 84, 86, 90, 91, 92, 93, 94, 95, 98,
    // 2: Africa, and islands of the Atlantic and Indian Oceans.
    211, 212, 213, 216, 218, 220, 221, 222, 223, 224, 225, 226, 227, 228, 229, 230, 231, 232, 233, 234, 235,
    236, 237, 238, 239, 240, 241, 242, 243, 244, 245, 246, 247, 248, 249, 250, 251, 252, 253, 254, 255, 256,
    257, 258, 260, 261, 262, 263, 264, 265, 266, 267, 268, 269, 290, 291, 297, 298, 299,
    // 3: Europe.
    350, 351, 352, 353, 354, 355, 356, 357, 358, 359, 370, 371, 372, 373, 374, 375, 376, 377, 378, 380, 381,
    382, 383, 385, 386, 387, 389,
    // 4: Europe.
    420, 421, 423,
    // 5: Americas outside of zone 1.
    500, 501, 502, 503, 504, 505, 506, 507, 508, 509, 590, 591, 592, 593, 594, 595, 596, 597, 598, 599,
    // 6: Oceania and South-East Asia.
    670, 672, 673, 674, 675, 676, 677, 678, 679, 680, 681, 682, 683, 685, 686, 687, 688, 689, 690, 691, 692,
    // 8: East Asia. Global services: 870 Inmarsat, 878 personal numbers, 881 satellites, 882 and 883 networks,
    // 888 disaster relief.
    850, 852, 853, 855, 856, 870, 878, 880, 881, 882, 883, 886, 888,
    // 9: Middle East, South and Central Asia.
    960, 961, 962, 963, 964, 965, 966, 967, 968, 970, 971, 972, 973, 974, 975, 976, 977, 992, 993, 994, 995,
    996, 998,
];

/// The country codes whose numbers have a fixed length, with the number of digits after the code.
const FIXED_LENGTH: [(u16, usize); 3] = [(800, 8), (808, 8), (979, 9)];

/// True if `text` is `+` and 7 to 15 digits, begins with a country code in use, and has the length that the ITU fixes
/// for this code.
pub(super) fn is_e164(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or_default();
    (7..=15).contains(&digits.len())
        && digits.bytes().all(|b| b.is_ascii_digit())
        && !digits.starts_with('0')
        && (1..=3).any(|length| is_code(&digits[..length], digits.len() - length))
}

/// True if `code` is a country code whose numbers may have `rest` digits after it.
fn is_code(code: &str, rest: usize) -> bool {
    let Ok(code) = code.parse() else { return false };
    ANY_LENGTH.binary_search(&code).is_ok() || FIXED_LENGTH.contains(&(code, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_ascending_and_no_code_begins_another() {
        assert!(ANY_LENGTH.is_sorted_by(|a, b| a < b));
        let codes = ANY_LENGTH.into_iter().chain(FIXED_LENGTH.map(|(code, _)| code));
        let codes: Vec<_> = codes.map(|code| code.to_string()).collect();
        for code in &codes {
            assert_eq!(codes.iter().filter(|other| other.starts_with(code)).count(), 1, "{code}");
        }
    }

    #[test]
    fn number_of_a_global_service_needs_its_fixed_length() {
        for number in ["+80012345678", "+80812345678", "+979123456789", "+870301234567", "+8823421234"] {
            assert!(is_e164(number), "{number}");
        }
        for wrong in ["+8001234567", "+800123456789", "+8081234567", "+97912345678", "+9791234567890"] {
            assert!(!is_e164(wrong), "{wrong}");
        }
    }
}
