//! Reading ahead: several reads are under way while what came before them is gathered, in the order of the image.
//!
//! A disk that is asked for one thing at a time answers at a fraction of its rate, and most of all where the reads are small.
//!
//! # Cancellation
//! Once `take` has failed nothing more is begun but what is asked for already; on return nothing is under way.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use crate::{Error, Result};

/// Something to be worked on, and where the result goes.
type Asked<T, U> = (T, SyncSender<U>);

/// Works on items on so many threads, begun as they are needed, and takes the results in the items' order; with none, one by
/// one on this thread. Blocks.
///
/// # Errors
/// Those of the items and of `take`.
pub(super) fn in_order<T: Send, U: Send>(
    threads: usize,
    mut items: impl Iterator<Item = Result<T>>,
    work: impl Fn(T) -> U + Sync,
    mut take: impl FnMut(U) -> Result<()>,
) -> Result<()> {
    if threads == 0 {
        return items.try_for_each(|item| take(work(item?)));
    }
    thread::scope(|scope| {
        let (ask, asked) = sync_channel::<Asked<T, U>>(threads);
        let asked = Arc::new(Mutex::new(asked));
        let mut results: VecDeque<Receiver<U>> = VecDeque::with_capacity(threads);
        let mut next = |results: &mut VecDeque<Receiver<U>>| match results.pop_front() {
            // A worker that panicked has its panic passed on by the scope.
            Some(result) => take(result.recv().map_err(|_| Error::Interrupted)?),
            None => Ok(()),
        };
        let mut workers = 0;
        for item in items {
            if results.len() == threads {
                next(&mut results)?;
            }
            let (done, result) = sync_channel(1);
            ask.send((item?, done)).map_err(|_| Error::Interrupted)?;
            results.push_back(result);
            if workers < threads {
                workers += 1;
                let (asked, work) = (Arc::clone(&asked), &work);
                scope.spawn(move || serve(&asked, work));
            }
        }
        while !results.is_empty() {
            next(&mut results)?;
        }
        Ok(())
    })
}

/// Works until nothing more will be asked.
fn serve<T, U>(asked: &Mutex<Receiver<Asked<T, U>>>, work: impl Fn(T) -> U) {
    loop {
        let next = asked.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((item, done)) = next else { return };
        // Whoever wanted it may have gone.
        let _ = done.send(work(item));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_come_in_order_and_several_are_under_way() {
        for threads in 0..5 {
            let mut taken = Vec::new();
            in_order(
                threads,
                (0..100).map(Ok),
                |item| item * 2,
                |result| {
                    taken.push(result);
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(taken, (0..100).map(|item| item * 2).collect::<Vec<_>>());
        }
        // None of three comes by unless the others are there, too.
        let barrier = Barrier::new(3);
        let mut taken = 0;
        in_order(
            3,
            (0..9).map(Ok),
            |_| barrier.wait().is_leader(),
            |leads| {
                taken += i32::from(leads);
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(taken, 3);
    }

    #[test]
    fn an_error_ends_it() {
        for threads in [0, 3] {
            let mut taken = Vec::new();
            let items = (0..).map(|item| if item == 7 { Err(Error::Interrupted) } else { Ok(item) });
            let ended = in_order(
                threads,
                items,
                |item| item,
                |item| {
                    taken.push(item);
                    Ok(())
                },
            );
            assert!(matches!(ended, Err(Error::Interrupted)));
            assert!(taken.len() <= 7 && taken.len() >= 7 - threads, "{taken:?}");
            let ended = in_order(
                threads,
                (0..).map(Ok),
                |item: u64| item,
                |item| {
                    if item == 20 { Err(Error::Interrupted) } else { Ok(()) }
                },
            );
            assert!(matches!(ended, Err(Error::Interrupted)));
        }
    }
}
