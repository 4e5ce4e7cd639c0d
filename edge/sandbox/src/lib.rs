//! What a worker process is put into before it runs.
