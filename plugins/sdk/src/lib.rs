//! For authors of extractors: serve one to the appliance from a process of its own.
