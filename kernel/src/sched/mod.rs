//! Threads and their scheduling, waiting, timers, deferred work.
