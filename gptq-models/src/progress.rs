//! [`Progress`]: how a long run tells its caller how far it is. Libraries do not print.

use crate::LayerReport;

/// Receives events of a run, in order, on the thread that runs it.
pub trait Progress {
    /// The share of all work that is done, in 0..=1, and what is being worked on.
    fn advance(&mut self, share: f64, what: &str);

    /// A linear is finished and on disk.
    fn layer(&mut self, report: &LayerReport);

    /// Something the user should know now rather than at the end.
    fn notice(&mut self, message: &str);
}

/// For callers who do not want to know.
impl Progress for () {
    fn advance(&mut self, _: f64, _: &str) {}
    fn layer(&mut self, _: &LayerReport) {}
    fn notice(&mut self, _: &str) {}
}
