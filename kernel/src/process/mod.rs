//! Processes: loading, fork, exec, exit, signals, futexes.
