//! Phone numbers, compared with the metadata of libphonenumber.

use instant_connect_worker::contract::people::PhoneNumber;
use serde_json::Value;

use testkit::python::python;

#[tokio::test]
async fn country_codes_agree_with_libphonenumber() {
    let numbers: Value = serde_json::from_str(&python("phone_numbers.py", &[]).await).unwrap();
    for (list, is_accepted) in [("accepted", true), ("refused", false)] {
        let numbers: Vec<String> = serde_json::from_value(numbers[list].clone()).unwrap();
        assert!(numbers.len() >= 800, "{list}: only {}", numbers.len());
        let wrong: Vec<_> = numbers
            .into_iter()
            .filter(|number| PhoneNumber::try_from(number.clone()).is_ok() != is_accepted)
            .collect();
        assert!(wrong.is_empty(), "not {list}: {wrong:?}");
    }
}
