//! Sends several statements without waiting for each other's answers.
//!
//! If a statement fails inside a transaction, the server refuses every statement behind it with 25P02. The client may
//! see these answers in another order. So the failure that is returned is the first one in the order of sending: only
//! that one says what went wrong, and whether to try again.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use futures_util::future::join_all;

use crate::fault::{Failure, Result};

/// Both answers, or the first failure. `then` is begun right after `first`, but not once `first` has failed: a
/// `COMMIT` is not sent behind a statement that could not be.
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

/// [`pipelined`], of three.
pub(crate) async fn pipelined3<A, B, C>(
    first: impl Future<Output = Result<A>>,
    second: impl Future<Output = Result<B>>,
    third: impl Future<Output = Result<C>>,
) -> Result<(A, B, C)> {
    // Nested at the end only: so a failure in the middle keeps all that follows from being begun.
    pipelined(first, pipelined(second, third)).await.map(|(a, (b, c))| (a, b, c))
}

/// [`pipelined`], of four.
pub(crate) async fn pipelined4<A, B, C, D>(
    first: impl Future<Output = Result<A>>,
    second: impl Future<Output = Result<B>>,
    third: impl Future<Output = Result<C>>,
    fourth: impl Future<Output = Result<D>>,
) -> Result<(A, B, C, D)> {
    pipelined(first, pipelined3(second, third, fourth)).await.map(|(a, (b, c, d))| (a, b, c, d))
}

/// All answers, or the first failure in this order that is none of what follows a failure: each may be several statements,
/// one behind the other. All are begun, whichever fail: this is for reading.
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

    /// What is told where of four statements `later` fails while the others have no answer, and then those before
    /// `earlier` are done and it fails, too.
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

    /// A statement of a later step may have been sent behind one that is further on in the list.
    #[test]
    fn of_all_that_fail_none_is_told_for_following_another() {
        let Some(server) = TestServer::shared() else { return };
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
    fn nothing_is_sent_behind_what_could_not_be() {
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
