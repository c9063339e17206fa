//! Questions whose answers take time: asked now and then beside whoever wants to know, who gets the last answer.
//!
//! # Concurrency
//! A question is asked once at a time, and only while somebody wants to know. One that is not answered in time is an
//! answer as well, and stays under way: what hangs is not asked again and again.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long what is not well is left in peace.
const AGAIN: Duration = Duration::from_secs(5);

type Answer = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// A question, and the last answer.
pub(super) struct Look {
    what: &'static str,
    every: Duration,
    question: Box<dyn Fn() -> Answer + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    well: bool,
    answered: Instant,
    /// Since when the question is under way.
    asked: Option<Instant>,
}

impl Look {
    /// Takes a question about something that is well by now, to be asked so often while that is so.
    pub(super) fn new<F>(
        what: &'static str,
        every: Duration,
        question: impl Fn() -> F + Send + Sync + 'static,
    ) -> Arc<Self>
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let state = State { well: true, answered: Instant::now(), asked: None };
        let question = Box::new(move || -> Answer { Box::pin(question()) });
        Arc::new(Self { what, every, question, state: Mutex::new(state) })
    }

    /// Tells whether all was well when it was last looked, and sees to it that it is looked again when that is some time
    /// ago.
    pub(super) fn is_well(self: &Arc<Self>) -> bool {
        let mut state = self.state();
        let age = state.answered.elapsed();
        if state.asked.is_none() && age >= if state.well { self.every } else { AGAIN } {
            state.asked = Some(Instant::now());
            let look = Arc::clone(self);
            tokio::spawn(async move {
                let answer = (look.question)().await;
                look.take(answer);
            });
        }
        state.well && state.asked.is_none_or(|asked| asked.elapsed() < PATIENCE)
    }

    fn take(&self, answer: Result<(), String>) {
        let was_well = self.state().well;
        let what = self.what;
        match &answer {
            Err(reason) if was_well => tracing::warn!(what, reason, "not ready"),
            Ok(()) if !was_well => tracing::info!(what, "ready again"),
            _ => {}
        }
        *self.state() = State { well: answer.is_ok(), answered: Instant::now(), asked: None };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Look").field("what", &self.what).field("state", &self.state()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn the_last_answer_counts_and_one_question_is_asked_at_a_time() {
        let (asked, broken, go) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)), Arc::new(Notify::new()));
        let look = Look::new("the thing", Duration::ZERO, {
            let (asked, broken, go) = (asked.clone(), broken.clone(), go.clone());
            move || {
                let (asked, broken, go) = (asked.clone(), broken.clone(), go.clone());
                async move {
                    asked.fetch_add(1, Ordering::SeqCst);
                    go.notified().await;
                    if broken.load(Ordering::SeqCst) { Err("it is broken".into()) } else { Ok(()) }
                }
            }
        });
        assert!(look.is_well() && look.is_well(), "nothing else is known yet");
        while asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        go.notify_one();
        while look.state().asked.is_some() {
            tokio::task::yield_now().await;
        }
        assert!(!look.is_well(), "it was found broken");
        assert!(look.state().asked.is_none(), "what is broken is left in peace for a while");
        assert_eq!(asked.load(Ordering::SeqCst), 1);

        broken.store(false, Ordering::SeqCst);
        look.take(Ok(()));
        assert!(look.is_well());
        // An answer that does not come is one.
        let late = Instant::now().checked_sub(PATIENCE).expect("the machine has been up for longer");
        look.state().asked = Some(late);
        assert!(!look.is_well());
    }
}
