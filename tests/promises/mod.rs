//! One module for each promise, tested on a real broker, the program as a process, and the sandbox.

mod bad_input;
mod blocked;
mod broker_restarts;
mod command_line;
mod connecting;
mod deep_headers;
mod ended_anywhere;
mod fairness;
mod full_queue;
mod https;
mod in_between;
mod leaks;
mod load;
mod logs;
mod moved_by_operators;
mod outages;
mod queue_deleted;
mod repeats;
mod routing;
mod shared_ledger;
mod strangers;
mod terminated;
mod tls;
mod traces;
mod whole_way;
