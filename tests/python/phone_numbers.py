"""Prints phone numbers that an E.164 check must accept and refuse, as JSON, from libphonenumber's metadata.

Accepted: the example numbers of all types, of every region and every global service. Refused: numbers of all lengths whose
country code does not exist, and numbers of a wrong length if the ITU fixes the length.
"""

import json
import sys

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE as CODES
from phonenumbers import PhoneNumberFormat, PhoneNumberType, ValidationResult

# The contract requires at least 7 digits. Only numbers of companies, called within their country, are shorter (+98 9601).
LENGTHS = range(7, 16)
# Global services whose numbers have one length: freephone, shared cost, premium rate.
FIXED_LENGTH = (800, 808, 979)


def e164(number):
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


def examples():
    for region in phonenumbers.SUPPORTED_REGIONS:
        for kind in PhoneNumberType.values():
            yield phonenumbers.example_number_for_type(region, kind)
    for code in phonenumbers.COUNTRY_CODES_FOR_NON_GEO_REGIONS:
        yield phonenumbers.example_number_for_non_geo_entity(code)


def of_length(beginning, length):
    return "+" + beginning + "23456789012345"[: length - len(beginning)]


def numbers_without_country():
    for beginning in map(str, range(100, 1000)):
        if not any(int(beginning[:digits]) in CODES for digits in (1, 2, 3)):
            yield from (of_length(beginning, length) for length in LENGTHS)


def is_possible(number):
    reason = phonenumbers.is_possible_number_with_reason(phonenumbers.parse(number))
    return reason == ValidationResult.IS_POSSIBLE


def numbers_of_wrong_length():
    for code in map(str, FIXED_LENGTH):
        right = len(e164(phonenumbers.example_number_for_non_geo_entity(int(code)))) - 1
        yield from (of_length(code, length) for length in LENGTHS if length != right)


accepted = {e164(number) for number in examples() if number}
accepted = sorted(number for number in accepted if len(number) - 1 in LENGTHS)
with_example = {phonenumbers.parse(number).country_code for number in accepted}
assert with_example == set(CODES), f"no example: {set(CODES) - with_example}"
wrong_length = list(numbers_of_wrong_length())
assert not any(map(is_possible, wrong_length)), wrong_length
json.dump({"accepted": accepted, "refused": [*numbers_without_country(), *wrong_length]}, sys.stdout)
