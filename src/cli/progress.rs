//! Progress of long work on stderr: a bar on a terminal, otherwise one line every ten seconds.
//!
//! Only watches the counters of [`Progress`]; what they count is the work's business.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::errors::Failure;
use super::output::{self, note};
use super::signals;
use crate::store::Progress;

/// Between two looks at the counters, for a bar.
const BAR_INTERVAL: Duration = Duration::from_millis(100);
/// Between two lines, without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Long work: its counters, its clock, and who watches it. Signals interrupt it.
#[derive(Debug)]
pub struct Job {
    /// The counters.
    pub progress: Arc<Progress>,
    started: Instant,
    watcher: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Job {
    /// Starts the clock, the watching of signals and, if `watched`, of progress.
    ///
    /// # Errors
    /// The system refuses signals or threads.
    pub fn start(verb: &'static str, watched: bool) -> Result<Self, Failure> {
        let progress = Arc::new(Progress::default());
        let failed = |error| Failure::failed(format!("{verb}: watching signals: {error}"));
        signals::interrupt_on_signal(Arc::clone(&progress)).map_err(failed)?;
        let watcher = if watched {
            let (stop, stopped) = mpsc::channel();
            let counters = Arc::clone(&progress);
            let watch = move || watch(verb, &counters, &stopped);
            let thread = std::thread::Builder::new().name("progress".into()).spawn(watch);
            Some((stop, thread.map_err(failed)?))
        } else {
            None
        };
        Ok(Self { progress, started: Instant::now(), watcher })
    }

    /// Stops watching and returns how long the work took, in seconds with three decimals.
    pub fn finish(mut self) -> f64 {
        self.stop();
        (self.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
    }

    fn stop(&mut self) {
        if let Some((stop, thread)) = self.watcher.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Watches until the sender is gone.
fn watch(verb: &'static str, counters: &Progress, stopped: &mpsc::Receiver<()>) {
    if io::stderr().is_terminal() {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        let bar = bar.with_style(style(false)).with_prefix(verb);
        let mut known = false;
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(BAR_INTERVAL) {
            let now = Sample::of(counters);
            bar.set_message(output::counted(now.items, "item", "items"));
            if now.bytes_total > 0 {
                if !known {
                    bar.set_style(style(true));
                    known = true;
                }
                bar.set_length(now.bytes_total.max(now.bytes));
            }
            bar.set_position(now.bytes);
        }
        bar.finish_and_clear();
        return;
    }
    let mut last = Sample::of(counters);
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LINE_INTERVAL) {
        let now = Sample::of(counters);
        note(&line(verb, &last, &now, LINE_INTERVAL));
        last = now;
    }
}

fn style(total_is_known: bool) -> ProgressStyle {
    let template = if total_is_known {
        "{prefix} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, \
         {eta} left, {msg}"
    } else {
        "{prefix} {spinner} {binary_bytes}, {binary_bytes_per_sec}, {msg}"
    };
    let style = ProgressStyle::with_template(template).expect("a valid template");
    style.progress_chars("=> ")
}

/// The counters at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sample {
    items: u64,
    bytes: u64,
    bytes_total: u64,
}

impl Sample {
    fn of(counters: &Progress) -> Self {
        Self {
            items: counters.items.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
            bytes_total: counters.bytes_total.load(Ordering::Relaxed),
        }
    }
}

/// Returns the line that tells what was done until `now`.
fn line(verb: &str, last: &Sample, now: &Sample, interval: Duration) -> String {
    use std::fmt::Write as _;
    let rate = now.bytes.saturating_sub(last.bytes) as f64 / interval.as_secs_f64();
    let mut text = format!("strongroom: {verb}: {}", output::bytes(now.bytes));
    let left = now.bytes_total.saturating_sub(now.bytes);
    if now.bytes_total > 0 {
        let _ = write!(text, " of {}", output::bytes(now.bytes_total.max(now.bytes)));
    }
    let _ = write!(text, ", {}/s", output::bytes(rate as u64));
    if left > 0 && rate > 0.0 {
        let _ = write!(text, ", {} left", output::seconds(left as f64 / rate));
    }
    text + &format!(", {}", output::counted(now.items, "item", "items"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_bytes_rate_and_time_left() {
        let last = Sample { items: 0, bytes: 0, bytes_total: 0 };
        let now = Sample { items: 1204, bytes: 100 << 20, bytes_total: 300 << 20 };
        let interval = Duration::from_secs(10);
        assert_eq!(
            line("backup", &last, &now, interval),
            "strongroom: backup: 100.0 MiB of 300.0 MiB, 10.0 MiB/s, 20.0 s left, 1,204 items"
        );
        let stuck = Sample { items: 1, bytes: 0, bytes_total: 0 };
        assert_eq!(
            line("verify", &stuck, &stuck, interval),
            "strongroom: verify: 0 B, 0 B/s, 1 item"
        );
    }

    #[test]
    fn templates_of_the_bar_are_valid() {
        let _ = (style(true), style(false));
    }
}
