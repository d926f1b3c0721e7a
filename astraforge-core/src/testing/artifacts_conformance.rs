//! The rules that all artifact stores keep, one function a rule.

#![expect(missing_docs, reason = "the name of a rule says what it is")]

use bytes::Bytes;
use futures::{SinkExt, StreamExt, TryStreamExt, future::join, stream};

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
            keys_are_listed_in_order
            keys_are_listed_by_the_text_they_begin_with
            nothing_is_listed_that_is_not_there
            a_prefix_that_no_key_has_is_refused
            what_is_half_written_is_not_listed
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

/// In the order of their bytes: `-` comes before `.`, that before `/`, and capitals before small letters.
const KEYS: [&str; 7] = ["B/a", "a.b", "a/a", "a/b-c/d", "a/b.c", "a/b/c/d", "ab/a"];

async fn keep(store: &impl ArtifactStore, keys: &[&str]) {
    for key in keys {
        store.put(key, (*key).to_owned().into()).await.unwrap();
    }
}

pub async fn keys_are_listed_in_order(store: &impl ArtifactStore) {
    keep(store, &KEYS.into_iter().rev().collect::<Vec<_>>()).await;
    assert_eq!(store.list("").await.unwrap(), KEYS);
}

pub async fn keys_are_listed_by_the_text_they_begin_with(store: &impl ArtifactStore) {
    keep(store, &KEYS).await;
    for prefix in ["a", "a/", "a/b", "a/b/", "a/b/c", "a/b/c/d", "a/b-", "a.", "B", "ab/a"] {
        let expected: Vec<&str> = KEYS.into_iter().filter(|key| key.starts_with(prefix)).collect();
        assert!(!expected.is_empty());
        assert_eq!(store.list(prefix).await.unwrap(), expected, "{prefix}");
    }
}

pub async fn nothing_is_listed_that_is_not_there(store: &impl ArtifactStore) {
    assert!(store.list("").await.unwrap().is_empty());
    keep(store, &["a/b/c", "a/d"]).await;
    for prefix in ["b", "A", "a/b/c/", "a/b/c/d", "a/d/", "a/b/d", "a/c", "a/dd", "x/y/z/"] {
        assert!(store.list(prefix).await.unwrap().is_empty(), "{prefix}");
    }
    store.delete("a/b/c").await.unwrap();
    assert_eq!(store.list("a/").await.unwrap(), ["a/d"]);
    store.delete("a/d").await.unwrap();
    assert!(store.list("a/").await.unwrap().is_empty());
}

pub async fn a_prefix_that_no_key_has_is_refused(store: &impl ArtifactStore) {
    for prefix in ["/", "/etc/", "..", "../", "a/../", "a/..", "./", ".", "a//", "a/.", "a b", "*"] {
        assert!(store.list(prefix).await.is_err(), "{prefix:?}");
    }
}

pub async fn what_is_half_written_is_not_listed(store: &impl ArtifactStore) {
    keep(store, &["a/before"]).await;
    let (mut more, pieces) = futures::channel::mpsc::channel(0);
    let writes = store.put_stream("a/half", pieces.boxed());
    let reads = async {
        // More than stores keep back before they write; each piece is taken before the keys are asked for.
        let piece = Bytes::from(vec![7; 4 << 20]);
        for _ in 0..4 {
            more.send(Ok::<_, BoxError>(piece.clone())).await.unwrap();
            assert_eq!(store.list("").await.unwrap(), ["a/before"]);
            assert_eq!(store.list("a/").await.unwrap(), ["a/before"]);
        }
        drop(more);
    };
    let (written, ()) = join(writes, reads).await;
    assert_eq!(written.unwrap(), 16 << 20);
    assert_eq!(store.list("").await.unwrap(), ["a/before", "a/half"]);
}
