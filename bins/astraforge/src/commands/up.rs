//! `up`: runs the server and its workers until Ctrl-C.

use crate::{
    cli::{ConnectionArgs, UpArgs},
    greeting::greet,
    node::{Node, Queue},
    programs,
};

/// Runs a node until it is told to stop.
pub(crate) async fn up(connection: &ConnectionArgs, args: &UpArgs) -> anyhow::Result<()> {
    programs::look_around()?;
    // Boxed, for all parts of a node are in it.
    let start = Box::pin(async {
        let listener = args.listen.bind().await?;
        let (node, door) = Node::serve(&connection.node, listener, Queue::Work).await?;
        greet(connection.json, &connection.node.data_folder()?, &node, &door);
        Ok(node)
    });
    programs::until_told(start).await
}
