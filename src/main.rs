//! The program: parses, calls the library, maps the error to an exit status.
fn main() {}
