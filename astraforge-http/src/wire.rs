//! The bodies of requests and responses, shared by server and client.
//!
//! Names of fields are the contract's. Fields that the contract does not have are additive and say so.

pub mod account;
pub mod api_key;
pub mod audit;
pub mod change_set;
pub mod chat;
pub mod login_methods;
pub mod merge_request;
pub mod outcome;
pub mod plan;
pub mod repository_link;
pub mod request;
pub mod root;
pub mod run;
pub mod sandbox;
pub(crate) mod schema;
mod text;
mod timestamp;
