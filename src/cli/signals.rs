//! Signals: the first asks the work to stop at the next good place, the second ends the process.
//!
//! SIGPIPE is not touched: the Rust runtime ignores it, so that a closed pipe is an error of the
//! write ([`super::errors::Failure`] ends quietly then).

use std::io;
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::exit::Exit;
use super::output::note;
use crate::store::Progress;

/// From now on, interrupts `progress` at the first signal and ends the process at the second.
///
/// # Errors
/// The system refuses.
pub fn interrupt_on_signal(progress: Arc<Progress>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let watch = move || {
        for (earlier, _) in signals.forever().enumerate() {
            if earlier > 0 {
                signal_hook::low_level::exit(Exit::INTERRUPTED.code().into());
            }
            progress.interrupt();
            note("strongroom: stopping at the next good place (once more to stop at once)");
        }
    };
    // Not joined: it waits for signals until the process ends.
    std::thread::Builder::new().name("signals".into()).spawn(watch)?;
    Ok(())
}
