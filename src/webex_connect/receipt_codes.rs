//! Codes of receipts ("Channel-specific status codes" in Webex Connect's developer reference): the state of a message, the cause of a
//! failure, and whether that may pass.

use crate::contract::receipt::{
    FailureCause::{self, Account, Blocked, Consent, Content, Expired, Number, Unknown, Unreachable},
    MessageState::{self, Clicked, Delivered, Failed, Read, Submitted},
};

/// The meaning of a code in a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReceiptMeaning {
    pub(super) state: MessageState,
    /// Cause of a failure, and if it may pass.
    pub(super) failure: Option<(FailureCause, bool)>,
}

const fn state(code: u32, state: MessageState) -> (u32, ReceiptMeaning) {
    (code, ReceiptMeaning { state, failure: None })
}

/// A failure that stays.
const fn stays(code: u32, cause: FailureCause) -> (u32, ReceiptMeaning) {
    (code, ReceiptMeaning { state: Failed, failure: Some((cause, false)) })
}

/// A failure that may pass.
const fn passes(code: u32, cause: FailureCause) -> (u32, ReceiptMeaning) {
    (code, ReceiptMeaning { state: Failed, failure: Some((cause, true)) })
}

/// Each code and its meaning.
const CODES: &[(u32, ReceiptMeaning)] = &[
    stays(7004, Content),
    stays(7005, Expired),
    passes(7006, Unknown),
    passes(7020, Blocked),
    stays(7101, Account),
    stays(7102, Number),
    stays(7104, Account),
    stays(7107, Content),
    stays(7108, Content),
    stays(7109, Consent),
    stays(7111, Blocked),
    stays(7126, Content),
    stays(7200, Unknown),
    passes(7201, Unreachable),
    passes(7202, Unreachable),
    stays(7203, Number),
    stays(7204, Account),
    stays(7205, Account),
    passes(7206, Unreachable),
    passes(7207, Unreachable),
    stays(7208, Expired),
    stays(7209, Content),
    stays(7210, Account),
    stays(7211, Account),
    stays(7280, Unknown),
    stays(7281, Account),
    stays(7282, Number),
    stays(7283, Number),
    // The same text was sent to the same number before, so the guest has probably got it.
    stays(7284, Blocked),
    passes(7302, Blocked),
    state(7500, Delivered),
    state(7501, Submitted),
    state(7502, Read),
    stays(7513, Unknown),
    stays(7518, Unknown),
    state(7528, Clicked),
    stays(7607, Unknown),
    stays(7703, Account),
    stays(7704, Expired),
    stays(7705, Expired),
    passes(7706, Blocked),
    stays(7710, Content),
    stays(7711, Blocked),
    passes(7713, Unknown),
    stays(7714, Content),
    stays(7720, Blocked),
    stays(7726, Number),
    passes(7729, Unknown),
    passes(7730, Unknown),
    passes(7731, Unknown),
    stays(7733, Number),
    stays(7802, Number),
    stays(7803, Account),
    stays(7804, Content),
    stays(7805, Content),
    stays(7808, Content),
    stays(7809, Content),
    stays(7810, Content),
    stays(7811, Content),
    stays(7812, Content),
    stays(7813, Content),
    stays(7814, Content),
    stays(7815, Content),
    stays(7816, Content),
    stays(7832, Account),
    passes(7833, Unknown),
    passes(7834, Unknown),
    passes(7836, Blocked),
    stays(7837, Account),
    stays(7838, Content),
    stays(7839, Account),
    stays(7840, Account),
    stays(7842, Account),
    passes(7845, Blocked),
    passes(7846, Unknown),
    stays(7849, Content),
    passes(7854, Unknown),
    stays(7860, Account),
    stays(7862, Number),
    stays(7865, Number),
    stays(7868, Content),
    stays(7869, Content),
    passes(7870, Unknown),
    stays(7871, Unreachable),
    stays(7872, Blocked),
    passes(7874, Blocked),
    stays(9000, Consent),
    stays(9001, Consent),
    stays(9002, Consent),
    stays(9003, Consent),
    passes(9004, Unknown),
    stays(9005, Consent),
    passes(9006, Consent),
    stays(9007, Consent),
    stays(9008, Consent),
    stays(9009, Consent),
    stays(9010, Expired),
];

/// The meaning of `code`; `None` for a code that this program does not know.
pub(super) fn meaning(code: u32) -> Option<ReceiptMeaning> {
    let at = CODES.binary_search_by_key(&code, |(known, _)| *known).ok()?;
    Some(CODES[at].1)
}

/// The meaning of the text that a receipt has beside its code.
pub(super) fn meaning_of_status(status: &str) -> Option<ReceiptMeaning> {
    let of = |state| ReceiptMeaning { state, failure: None };
    Some(match status.trim().to_ascii_lowercase().as_str() {
        "submitted" => of(Submitted),
        "delivered" => of(Delivered),
        "read" => of(Read),
        "clicked" => of(Clicked),
        "failed" | "undelivered" => ReceiptMeaning { state: Failed, failure: Some((Unknown, false)) },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_and_only_failures_have_a_cause() {
        assert!(CODES.is_sorted_by(|(a, ..), (b, ..)| a < b));
        for (code, expected) in CODES {
            assert_eq!(meaning(*code), Some(*expected));
            assert_eq!(expected.failure.is_some(), expected.state == Failed, "{code}");
        }
        assert_eq!(meaning(7999), None);
    }
}
