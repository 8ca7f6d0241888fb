//! Takes over one option into the draft, by group.

mod connection;
mod control;
mod host;
mod process;
mod proxy;
mod server;

use super::draft::{ConnectionDraft, Draft, Given};

/// Takes over one option that the table calls honoured.
///
/// `block` is the `<connection>` the option stands in.
///
/// # Errors
/// What is wrong with its values.
pub(super) fn set(
    draft: &mut Draft,
    block: Option<&mut ConnectionDraft>,
    mut given: Given<'_>,
) -> Result<(), String> {
    let known = match block {
        Some(block) => connection::set(block, &mut given)?,
        None => {
            connection::set_global(draft, &mut given)?
                || control::set(draft, &mut given)?
                || host::set(draft, &mut given)?
                || process::set(draft, &mut given)?
                || server::set(draft, &mut given)?
        }
    };
    match known {
        true => Ok(()),
        false => Err("cannot be used here".to_owned()),
    }
}
