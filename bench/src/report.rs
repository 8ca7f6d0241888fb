//! placeholder
use crate::results::Results;
pub(crate) fn page(_results: &Results) -> String {
    String::new()
}
