//! `bulkhead boot`: one VM in the foreground. Arguments become a description and open files; the worker does the rest.

mod arguments;
mod describe;
mod files;
mod merges;
mod network;
mod run;
mod terminal;

pub use arguments::Arguments;
pub use run::run;
