//! Waiting for parts of a millisecond. The runtime's timers are rounded up to whole ones, and between two frames of a fast line there
//! are 1.75: rounding would cost a line of 115200 baud every twentieth request.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::serial::watch;

/// A timer of the kernel.
pub(super) struct Pause {
    timer: AsyncFd<File>,
}

impl Pause {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self {
            timer: watch(File::from(timer))?,
        })
    }

    /// Waits. Can be cancelled: the next call sets the timer anew.
    pub(super) async fn wait(&self, time: Duration) -> io::Result<()> {
        if time.is_zero() {
            // That would stop the timer.
            return Ok(());
        }
        let never = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let once = Itimerspec {
            it_interval: never,
            it_value: Timespec {
                tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(time.subsec_nanos()),
            },
        };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        let mut expirations = [0; 8];
        loop {
            let mut ready = self.timer.readable().await?;
            match ready.try_io(|timer| timer.get_ref().read(&mut expirations)) {
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(read) => return read.map(|_| ()),
                // It was ready for an earlier time.
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn it_waits_as_long_as_it_is_told_also_after_it_was_left() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let pause = Pause::new().unwrap();
            let left = tokio::time::timeout(
                Duration::from_millis(1),
                pause.wait(Duration::from_millis(5)),
            );
            assert!(left.await.is_err());
            // The time that was left has run out by then.
            std::thread::sleep(Duration::from_millis(10));
            for _ in 0..3 {
                let began = Instant::now();
                pause.wait(Duration::from_micros(1750)).await.unwrap();
                assert!(began.elapsed() >= Duration::from_micros(1750));
            }
            pause.wait(Duration::ZERO).await.unwrap();
        });
    }
}
