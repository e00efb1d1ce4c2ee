//! Sends several statements without waiting for each other's answers.
//!
//! If a statement fails inside a transaction, the server refuses every later statement with 25P02. The client may see
//! these answers in another order. So the functions return the first failure in the order of sending: only that one
//! says what went wrong, and whether to try again.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use futures_util::future::join_all;

use crate::fault::{Failure, Result};

/// Returns both answers, or the first failure. `then` is started right after `first`, unless `first` has already
/// failed: a `COMMIT` must not follow a statement that could not be sent.
pub(crate) async fn pipelined<A, B>(
    first: impl Future<Output = Result<A>>,
    then: impl Future<Output = Result<B>>,
) -> Result<(A, B)> {
    let (mut first, mut then) = (pin!(first), pin!(then));
    let (mut a, mut b) = (None, None);
    poll_fn(|cx| {
        if a.is_none()
            && let Poll::Ready(answer) = first.as_mut().poll(cx)?
        {
            a = Some(answer);
        }
        if b.is_none()
            && let Poll::Ready(answer) = then.as_mut().poll(cx)
        {
            b = Some(answer);
        }
        match (a.take(), b.take()) {
            (Some(a), Some(b)) => Poll::Ready(b.map(|b| (a, b))),
            unfinished => {
                (a, b) = unfinished;
                Poll::Pending
            }
        }
    })
    .await
}

/// [`pipelined`] for three statements.
pub(crate) async fn pipelined3<A, B, C>(
    first: impl Future<Output = Result<A>>,
    second: impl Future<Output = Result<B>>,
    third: impl Future<Output = Result<C>>,
) -> Result<(A, B, C)> {
    // The nesting is at the end, so that a failure in the middle keeps all later statements from starting.
    pipelined(first, pipelined(second, third)).await.map(|(a, (b, c))| (a, b, c))
}

/// [`pipelined`] for four statements.
pub(crate) async fn pipelined4<A, B, C, D>(
    first: impl Future<Output = Result<A>>,
    second: impl Future<Output = Result<B>>,
    third: impl Future<Output = Result<C>>,
    fourth: impl Future<Output = Result<D>>,
) -> Result<(A, B, C, D)> {
    pipelined(first, pipelined3(second, third, fourth)).await.map(|(a, (b, c, d))| (a, b, c, d))
}

/// Returns all answers, or the first failure that is not just a refusal after another one (25P02). Each item may send
/// several statements one after the other, so the first failure in the order of the items may be such a refusal. All
/// items are started even if one fails, so this is for reads only.
pub(crate) async fn pipelined_all<A>(
    statements: impl IntoIterator<Item = impl Future<Output = Result<A>>>,
) -> Result<Vec<A>> {
    let mut answers = Vec::new();
    let mut failure: Option<Failure> = None;
    for answer in join_all(statements).await {
        match answer {
            Ok(answer) => answers.push(answer),
            Err(next) if failure.as_ref().is_none_or(Failure::is_follow_up) => failure = Some(next),
            Err(_) => {}
        }
    }
    failure.map_or(Ok(answers), Err)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};
    use std::pin::Pin;
    use std::task::{Context, Waker};

    use tokio::sync::oneshot;
    use tokio_postgres::NoTls;

    use super::*;
    use crate::test_server::TestServer;

    fn failure(name: &str) -> Result<()> {
        Err(Failure::corrupt(name))
    }

    fn told<T>(result: Result<T>) -> String {
        result.map(drop).unwrap_err().into_store_error("testing").to_string()
    }

    fn assert_pending<T>(waiting: Pin<&mut impl Future<Output = T>>) {
        assert!(waiting.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }

    /// Returns the reported error of four statements. First `later` fails while the others have no answer. Then those
    /// before `earlier` succeed, and `earlier` fails as well.
    fn fail(earlier: usize, later: usize, all: bool) -> String {
        let (mut tell, seen): (Vec<_>, Vec<_>) = (0..4).map(|_| oneshot::channel()).unzip();
        let mut statements = seen
            .into_iter()
            .map(async |answer: oneshot::Receiver<_>| answer.await.unwrap_or_else(|_| failure("unanswered")));
        let mut next = || statements.next().unwrap();
        let (a, b, c, d) = (next(), next(), next(), next());
        let mut whole = pin!(async {
            match all {
                true => told(pipelined_all([a, b, c, d]).await),
                false => told(pipelined4(a, b, c, d).await),
            }
        });
        tell.remove(later).send(failure("later")).unwrap();
        assert_pending(whole.as_mut());
        for (at, tell) in tell.into_iter().take(earlier + 1).enumerate() {
            tell.send(if at == earlier { failure("earlier") } else { Ok(()) }).unwrap();
        }
        pollster::block_on(whole)
    }

    #[test]
    fn the_first_failure_in_the_order_of_sending_is_told_whichever_is_seen_first() {
        for (earlier, later) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
            for all in [false, true] {
                let told = fail(earlier, later, all);
                assert!(told.contains("earlier"), "{earlier} before {later}: {told}");
            }
        }
    }

    /// The server may have run an item's failed statement after a failed statement of a later item.
    #[test]
    fn a_failure_that_follows_from_another_is_not_told() {
        let Some(server) = TestServer::shared_own() else { return };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
            tokio::spawn(connection);
            let run = async |sql: &str| client.batch_execute(sql).await.map_err(Failure::from);
            for turned in [false, true] {
                run("BEGIN").await.unwrap();
                let mut answers = [run("SELECT 1 / 0").await, run("SELECT 1").await];
                run("ROLLBACK").await.unwrap();
                assert!(answers.iter().all(Result::is_err));
                if turned {
                    answers.reverse();
                }
                let told = told(pipelined_all(answers.map(ready)).await);
                assert!(told.contains("division by zero"), "{told}");
            }
        });
    }

    #[test]
    fn nothing_is_sent_after_a_statement_that_could_not_be_sent() {
        let sent = Cell::new(false);
        let commit = || async {
            sent.set(true);
            Ok(())
        };
        let (waiting, unsent) = (pending::<Result<()>>, || ready(failure("unsent")));
        assert!(told(pollster::block_on(pipelined(unsent(), commit()))).contains("unsent"));
        assert_pending(pin!(pipelined3(waiting(), unsent(), commit())));
        assert_pending(pin!(pipelined4(waiting(), unsent(), ready(Ok(())), commit())));
        assert_pending(pin!(pipelined4(waiting(), ready(Ok(())), unsent(), commit())));
        assert!(!sent.get());
    }
}
