//! Instant Connect and the Webex Messages API, faked faithfully.
