//! A whole Lastgood in one process: what an operator asks for, and what becomes of it on every host.

mod operations;
mod refusals;
