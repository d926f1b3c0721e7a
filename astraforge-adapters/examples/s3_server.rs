//! A server that speaks S3 and checks signatures, for trying things out: `s3_server FOLDER`. Buckets are folders in there.
//!
//! It prints its address, and takes the key in `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
#![expect(clippy::print_stdout, reason = "the address is its output")]

use std::{error::Error, path::Path};

use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("which folder holds the buckets?")?;
    let service =
        service(folder.as_ref(), &std::env::var("AWS_ACCESS_KEY_ID")?, &std::env::var("AWS_SECRET_ACCESS_KEY")?)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("http://{}", listener.local_addr()?);
    serve(listener, service).await;
    Ok(())
}

/// The service over the folders in `folder`, for who has the key.
pub(crate) fn service(folder: &Path, key: &str, secret: &str) -> Result<S3Service, Box<dyn Error>> {
    let files = FileSystem::new(folder).map_err(|error| format!("{folder:?} cannot be used: {error:?}"))?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(key, secret));
    Ok(builder.build())
}

/// Answers whoever connects, until the listener breaks.
pub(crate) async fn serve(listener: TcpListener, service: S3Service) {
    while let Ok((socket, _)) = listener.accept().await {
        let service = service.clone();
        tokio::spawn(async move {
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            drop(server.serve_connection(TokioIo::new(socket), service).await);
        });
    }
}
