//! The rules that all artifact stores keep, one function a rule.

#![expect(missing_docs, reason = "the name of a rule says what it is")]

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::join, stream};

use crate::BoxError;
use crate::ports::artifacts::ArtifactStore;

/// Makes one test of each rule that an [`ArtifactStore`] keeps. The argument is a future that makes a fresh store, with
/// what must live as long as it: `(guard, store)`. The tests run on Tokio.
///
/// ```
/// astraforge_core::artifacts_conformance!(async { ((), astraforge_core::testing::MemoryArtifacts::default()) });
/// ```
#[macro_export]
macro_rules! artifacts_conformance {
    ($fresh:expr) => {
        $crate::artifacts_conformance!(@ $fresh;
            what_was_put_is_read
            nothing_is_read_where_nothing_was_put
            the_last_bytes_put_are_read
            what_is_deleted_is_gone
            deleting_nothing_is_fine
            keys_do_not_touch_each_other
            empty_and_large_bytes_are_kept_as_they_are
            a_reader_sees_old_or_new_bytes_and_never_a_part
            a_key_that_could_leave_its_place_is_refused
            what_is_streamed_in_is_streamed_out
            a_stream_that_breaks_off_stores_nothing
        );
    };
    (@ $fresh:expr; $($rule:ident)*) => { $(
        #[tokio::test]
        async fn $rule() {
            let (_guard, store) = $fresh.await;
            $crate::testing::artifacts_conformance::$rule(&store).await;
        }
    )* };
}

const KEY: &str = "rollouts/request/run.jsonl";

pub async fn what_was_put_is_read(store: &impl ArtifactStore) {
    store.put(KEY, "{}\n".into()).await.unwrap();
    assert_eq!(store.get(KEY).await.unwrap().as_deref(), Some(&b"{}\n"[..]));
}

pub async fn nothing_is_read_where_nothing_was_put(store: &impl ArtifactStore) {
    assert_eq!(store.get(KEY).await.unwrap(), None);
    store.put(KEY, "x".into()).await.unwrap();
    assert_eq!(store.get("rollouts/request/other.jsonl").await.unwrap(), None);
}

pub async fn the_last_bytes_put_are_read(store: &impl ArtifactStore) {
    for bytes in ["a longer text", "short", ""] {
        store.put(KEY, bytes.into()).await.unwrap();
        assert_eq!(store.get(KEY).await.unwrap().as_deref(), Some(bytes.as_bytes()));
    }
}

pub async fn what_is_deleted_is_gone(store: &impl ArtifactStore) {
    store.put(KEY, "x".into()).await.unwrap();
    store.delete(KEY).await.unwrap();
    assert_eq!(store.get(KEY).await.unwrap(), None);
    store.put(KEY, "y".into()).await.unwrap();
    assert_eq!(store.get(KEY).await.unwrap().as_deref(), Some(&b"y"[..]));
}

pub async fn deleting_nothing_is_fine(store: &impl ArtifactStore) {
    store.delete(KEY).await.unwrap();
    store.put(KEY, "x".into()).await.unwrap();
    store.delete(KEY).await.unwrap();
    store.delete(KEY).await.unwrap();
}

pub async fn keys_do_not_touch_each_other(store: &impl ArtifactStore) {
    let keys = ["a", "b/a", "b/b", "b.a", "B/a", "b/c/d"];
    for key in keys {
        store.put(key, key.into()).await.unwrap();
    }
    store.delete("b/b").await.unwrap();
    for key in keys {
        let expected = (key != "b/b").then_some(key.as_bytes());
        assert_eq!(store.get(key).await.unwrap().as_deref(), expected, "{key}");
    }
}

pub async fn empty_and_large_bytes_are_kept_as_they_are(store: &impl ArtifactStore) {
    let large: Bytes = (0..3_000_000u32).flat_map(|n| [(n % 251) as u8]).collect();
    for bytes in [Bytes::new(), large] {
        store.put(KEY, bytes.clone()).await.unwrap();
        assert!(store.get(KEY).await.unwrap().unwrap() == bytes, "{} bytes", bytes.len());
    }
}

pub async fn a_reader_sees_old_or_new_bytes_and_never_a_part(store: &impl ArtifactStore) {
    let of = |fill: u8| Bytes::from(vec![fill; 1 << 20]);
    store.put(KEY, of(0)).await.unwrap();
    let writes = async {
        for fill in 1..10 {
            store.put(KEY, of(fill)).await.unwrap();
        }
    };
    let reads = async {
        for _ in 0..30 {
            let bytes = store.get(KEY).await.unwrap().unwrap();
            assert!(bytes.len() == 1 << 20 && bytes.iter().all(|byte| *byte == bytes[0]));
        }
    };
    join(writes, reads).await;
}

pub async fn a_key_that_could_leave_its_place_is_refused(store: &impl ArtifactStore) {
    for key in ["", "/", "/etc/passwd", "../x", "a/../../x", "a/..", "a/./b", "a//b", "a/"] {
        assert!(store.put(key, "x".into()).await.is_err(), "{key:?}");
        assert!(store.get(key).await.is_err(), "{key:?}");
        assert!(store.delete(key).await.is_err(), "{key:?}");
    }
}

pub async fn what_is_streamed_in_is_streamed_out(store: &impl ArtifactStore) {
    let pieces: Vec<Bytes> = (0..100u8).map(|fill| Bytes::from(vec![fill; 70_000])).collect();
    let n_bytes = store.put_stream(KEY, stream::iter(pieces.clone()).map(Ok).boxed()).await.unwrap();
    assert_eq!(n_bytes, 7_000_000);
    let read: Vec<Bytes> = store.get_stream(KEY).await.unwrap().unwrap().try_collect().await.unwrap();
    assert!(read.concat() == pieces.concat());
    assert!(store.get_stream("rollouts/none").await.unwrap().is_none());
    assert_eq!(store.put_stream(KEY, stream::empty().boxed()).await.unwrap(), 0);
    assert_eq!(store.get(KEY).await.unwrap().as_deref(), Some(&b""[..]));
}

pub async fn a_stream_that_breaks_off_stores_nothing(store: &impl ArtifactStore) {
    let broken = || stream::iter([Ok(Bytes::from_static(b"half")), Err(BoxError::from("the sandbox died"))]).boxed();
    assert!(store.put_stream(KEY, broken()).await.is_err());
    assert_eq!(store.get(KEY).await.unwrap(), None);
    store.put(KEY, "whole".into()).await.unwrap();
    assert!(store.put_stream(KEY, broken()).await.is_err());
    assert_eq!(store.get(KEY).await.unwrap().as_deref(), Some(&b"whole"[..]));
}
