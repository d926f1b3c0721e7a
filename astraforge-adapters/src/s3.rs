//! Keeps artifacts in a bucket of S3, or of anything that speaks its protocol.

use std::fmt;

use astraforge_core::{
    BoxError,
    ports::artifacts::{ArtifactError, ArtifactStore, ArtifactStream, check_key, check_prefix},
    repository::Secret,
};
use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::{
    Client,
    config::{Credentials, RequestChecksumCalculation, ResponseChecksumValidation},
    error::{DisplayErrorContext, SdkError},
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use aws_smithy_http_client::{Builder, tls};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use tokio_util::io::ReaderStream;

/// What is sent at once, in bytes: the smallest part that S3 takes is 5 MiB.
const PART: usize = 8 * 1024 * 1024;

/// Where a bucket is.
///
/// ```
/// use astraforge_adapters::s3::S3Config;
///
/// let config = S3Config::new("snapshots").with_endpoint("http://127.0.0.1:9000").with_region("eu-central-1");
/// assert_eq!(config.bucket, "snapshots");
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct S3Config {
    /// The bucket, which exists.
    pub bucket: String,
    /// What all keys begin with, or empty.
    pub prefix: String,
    /// The server's URL; `None` is AWS. With one, buckets are addressed by path.
    pub endpoint: Option<String>,
    /// The region; `us-east-1` unless set.
    pub region: String,
    /// The access key and its secret; `None` asks the environment, the profile and the machine, as AWS programs do.
    pub credentials: Option<(String, Secret)>,
}

impl S3Config {
    /// A bucket of AWS, with the credentials of this machine.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: String::new(),
            endpoint: None,
            region: "us-east-1".to_owned(),
            credentials: None,
        }
    }

    /// Sets what all keys begin with.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the server's URL.
    #[must_use]
    pub fn with_endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Sets the region.
    #[must_use]
    pub fn with_region(mut self, region: impl Into<String>) -> Self {
        self.region = region.into();
        self
    }

    /// Sets the access key and its secret.
    #[must_use]
    pub fn with_credentials(mut self, access_key: impl Into<String>, secret: Secret) -> Self {
        self.credentials = Some((access_key.into(), secret));
        self
    }
}

/// Keeps each artifact as an object `<prefix><key>` of one bucket.
///
/// Objects of more than 8 MiB are sent in parts, and appear when the last one arrived. TLS is rustls with ring.
#[derive(Clone)]
pub struct S3Artifacts {
    client: Client,
    bucket: String,
    prefix: String,
}

impl fmt::Debug for S3Artifacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Artifacts")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl S3Artifacts {
    /// A store in that bucket. Nothing is sent yet; [`check`](Self::check) tells whether the bucket can be reached.
    pub async fn new(config: S3Config) -> Self {
        let http =
            Builder::new().tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring)).build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(config.region))
            // Other servers than AWS do not know the newer checksums.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some((access_key, secret)) = config.credentials {
            loader = loader.credentials_provider(Credentials::new(
                access_key,
                secret.reveal().to_owned(),
                None,
                None,
                "configuration",
            ));
        }
        if let Some(endpoint) = &config.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        let shared = loader.load().await;
        let settings = aws_sdk_s3::config::Builder::from(&shared).force_path_style(config.endpoint.is_some()).build();
        Self { client: Client::from_conf(settings), bucket: config.bucket, prefix: config.prefix }
    }

    /// Tells whether the bucket is there and these credentials may use it.
    ///
    /// # Errors
    /// What the server answered, or why none did.
    pub async fn check(&self) -> Result<(), ArtifactError> {
        let answer = self.client.head_bucket().bucket(&self.bucket).send().await;
        answer.map(drop).map_err(|error| failed("reach", &self.bucket, error))
    }

    fn object(&self, operation: &'static str, key: &str) -> Result<String, ArtifactError> {
        check_key(key).map_err(|source| ArtifactError { operation, key: key.to_owned(), source })?;
        Ok(format!("{}{key}", self.prefix))
    }

    async fn put_whole(&self, key: &str, object: &str, bytes: Bytes) -> Result<(), ArtifactError> {
        let put = self.client.put_object().bucket(&self.bucket).key(object).body(ByteStream::from(bytes));
        put.send().await.map(drop).map_err(|error| failed("store", key, error))
    }

    /// Sends all that is left in parts; the caller takes the upload back when one of them fails.
    async fn put_parts(
        &self,
        upload: &Upload<'_>,
        first: BytesMut,
        mut bytes: ArtifactStream,
    ) -> Result<u64, ArtifactError> {
        let (mut part, mut parts, mut n_bytes) = (first, Vec::new(), 0);
        loop {
            let next = next_piece(&mut bytes).await.map_err(|source| stored(upload.key, source))?;
            let ended = next.is_none();
            part.extend_from_slice(&next.unwrap_or_default());
            while part.len() >= PART || (ended && !part.is_empty()) {
                let piece = part.split_to(part.len().min(PART)).freeze();
                n_bytes += piece.len() as u64;
                parts.push(self.put_part(upload, parts.len() + 1, piece).await?);
            }
            if ended {
                break;
            }
        }
        let whole = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = self.client.complete_multipart_upload().bucket(&self.bucket).key(upload.object);
        let answer = complete.upload_id(upload.id).multipart_upload(whole).send().await;
        answer.map_err(|error| failed("store", upload.key, error))?;
        Ok(n_bytes)
    }

    async fn put_part(&self, upload: &Upload<'_>, number: usize, bytes: Bytes) -> Result<CompletedPart, ArtifactError> {
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        let put = self.client.upload_part().bucket(&self.bucket).key(upload.object).upload_id(upload.id);
        let answer = put.part_number(number).body(ByteStream::from(bytes)).send().await;
        let tag = answer.map_err(|error| failed("store", upload.key, error))?.e_tag;
        Ok(CompletedPart::builder().part_number(number).set_e_tag(tag).build())
    }
}

/// An upload in parts.
struct Upload<'a> {
    key: &'a str,
    object: &'a str,
    id: &'a str,
}

#[async_trait]
impl ArtifactStore for S3Artifacts {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ArtifactError> {
        let object = self.object("store", key)?;
        self.put_whole(key, &object, bytes).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, ArtifactError> {
        let Some(stream) = self.get_stream(key).await? else { return Ok(None) };
        let whole = stream.try_fold(BytesMut::new(), |mut whole, piece| async move {
            whole.extend_from_slice(&piece);
            Ok(whole)
        });
        let whole = whole.await.map_err(|source| ArtifactError { operation: "read", key: key.to_owned(), source })?;
        Ok(Some(whole.freeze()))
    }

    /// # Cancel safety
    /// Dropping the future stores nothing; parts that were sent stay hidden until the bucket's own rule for unfinished
    /// uploads removes them.
    async fn put_stream(&self, key: &str, mut bytes: ArtifactStream) -> Result<u64, ArtifactError> {
        let object = self.object("store", key)?;
        let mut first = BytesMut::new();
        while first.len() < PART {
            match next_piece(&mut bytes).await.map_err(|source| stored(key, source))? {
                Some(piece) => first.extend_from_slice(&piece),
                None => {
                    let n_bytes = first.len() as u64;
                    return self.put_whole(key, &object, first.freeze()).await.map(|()| n_bytes);
                }
            }
        }
        let create = self.client.create_multipart_upload().bucket(&self.bucket).key(&object);
        let answer = create.send().await.map_err(|error| failed("store", key, error))?;
        let id = answer.upload_id.ok_or_else(|| stored(key, "the server named no upload".into()))?;
        let upload = Upload { key, object: &object, id: &id };
        let sent = self.put_parts(&upload, first, bytes).await;
        if sent.is_err() {
            let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(&object).upload_id(&id);
            if let Err(error) = abort.send().await {
                tracing::warn!(key, error = %DisplayErrorContext(error), "parts of a broken upload are left over");
            }
        }
        sent
    }

    async fn get_stream(&self, key: &str) -> Result<Option<ArtifactStream>, ArtifactError> {
        let object = self.object("read", key)?;
        match self.client.get_object().bucket(&self.bucket).key(object).send().await {
            Ok(answer) => {
                let pieces = ReaderStream::with_capacity(answer.body.into_async_read(), 256 * 1024);
                Ok(Some(pieces.map_err(BoxError::from).boxed()))
            }
            Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => Ok(None),
            Err(error) => Err(failed("read", key, error)),
        }
    }

    async fn delete(&self, key: &str) -> Result<(), ArtifactError> {
        let object = self.object("remove", key)?;
        let answer = self.client.delete_object().bucket(&self.bucket).key(object).send().await;
        match answer {
            Ok(_) => Ok(()),
            // S3 says yes to removing nothing; others say that there is nothing.
            Err(error) if error.raw_response().is_some_and(|answer| answer.status().as_u16() == 404) => Ok(()),
            Err(error) => Err(failed("remove", key, error)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, ArtifactError> {
        check_prefix(prefix).map_err(|source| ArtifactError { operation: "list", key: prefix.to_owned(), source })?;
        let list = self.client.list_objects_v2().bucket(&self.bucket).prefix(format!("{}{prefix}", self.prefix));
        let mut pages = list.into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| failed("list", prefix, error))?;
            let objects = page.contents.into_iter().flatten().filter_map(|object| object.key);
            let own = objects.filter_map(|object| object.strip_prefix(&self.prefix).map(str::to_owned));
            // What somebody else put there is no artifact.
            keys.extend(own.filter(|key| check_key(key).is_ok()));
        }
        // Not every server keeps the order.
        keys.sort_unstable();
        Ok(keys)
    }
}

async fn next_piece(bytes: &mut ArtifactStream) -> Result<Option<Bytes>, BoxError> {
    bytes.next().await.transpose()
}

fn stored(key: &str, source: BoxError) -> ArtifactError {
    ArtifactError { operation: "store", key: key.to_owned(), source }
}

fn failed<E>(operation: &'static str, key: &str, error: SdkError<E>) -> ArtifactError
where
    E: std::error::Error + Send + Sync + 'static,
{
    // The error's own text is one word; what a person needs stands in its sources.
    let source = DisplayErrorContext(error).to_string().into();
    ArtifactError { operation, key: key.to_owned(), source }
}
