//! Deleting many objects, and saying of each what came of it: some may be under retention, and the others go.

use futures::StreamExt;
use object_store::path::Path;

use super::{Cause, Store, backoff::Patience, failure};
use crate::{Error, ErrorKind, Result};

impl Store {
    /// Deletes objects, at most a thousand, in as few requests as the store allows, and says of each whether it is gone;
    /// missing ones are as good as deleted. What fails for the moment is tried again.
    pub(crate) async fn delete_each(&self, keys: &[String]) -> Vec<Result<()>> {
        let mut results: Vec<Result<()>> = keys.iter().map(|_| Ok(())).collect();
        let mut left: Vec<usize> = (0..keys.len()).collect();
        let mut patience = Patience::new();
        loop {
            let paths: Vec<_> = left.iter().map(|number| Ok(Path::from(keys[*number].as_str()))).collect();
            let answers: Vec<_> = self.inner.delete_stream(futures::stream::iter(paths).boxed()).collect().await;
            if answers.len() < left.len() {
                // A request that failed as a whole has one answer. What was missing in requests before it is not what failed.
                let failed =
                    |answer: object_store::Result<Path>| answer.err().filter(|error| !failure::is_missing(error));
                let error = answers.into_iter().find_map(failed);
                let unanswered = || (ErrorKind::Unavailable, Cause::new("the store did not speak of all objects"));
                let (kind, cause) = error.map_or_else(unanswered, |error| (failure::kind(&error), Cause::of(&error)));
                for number in &left {
                    let object = keys[*number].clone();
                    results[*number] = Err(Error::Store { operation: "deleting", object, kind, source: cause.clone() });
                }
            } else {
                for (number, answer) in left.iter().zip(answers) {
                    results[*number] = match answer {
                        Err(error) if !failure::is_missing(&error) => {
                            Err(self.failed("deleting", &keys[*number], error))
                        }
                        _ => Ok(()),
                    };
                }
            }
            left.retain(|number| matches!(&results[*number], Err(error) if error.is_transient()));
            if left.is_empty() || !patience.waits(self.entropy.as_ref()).await {
                return results;
            }
        }
    }
}
