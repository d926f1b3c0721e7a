//! Prints the OpenAPI document: `cargo run -p astraforge-http --example openapi > astraforge-http/openapi.json`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    let document = serde_json::to_string_pretty(&astraforge_http::server::openapi())?;
    writeln!(std::io::stdout(), "{document}")
}
