//! The nodes as a controller reaches them: by name, wherever the directory says that they are.
//!
//! # Concurrency
//! Each node has one connection, which all calls share. It is given up for another where the directory has another address
//! for the node; calls that are under way on the old one go on for as long as it lasts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use varve_controller::nodes::{Client, Error, Nodes};

use crate::{Role, Trust, dial, directory::Directory, identity::Identity, verify};

/// The nodes of a directory, over mutual TLS.
#[derive(Debug)]
pub struct Dialled {
    directory: Arc<dyn Directory>,
    trust: Trust,
    identity: Arc<Identity>,
    clients: Mutex<BTreeMap<String, At>>,
}

/// A node's client, and where it was made for.
#[derive(Debug)]
struct At {
    address: String,
    client: Client,
}

impl Dialled {
    /// Reaches the nodes of a directory, as a controller of the repository.
    #[must_use]
    pub fn new(trust: &Trust, directory: Arc<dyn Directory>) -> Self {
        let identity = Arc::new(Identity::new(trust, Role::Controller));
        Self { directory, trust: trust.clone(), identity, clients: Mutex::default() }
    }

    fn client(&self, node: &str, address: String) -> Result<Client, Error> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = clients.get(node)
            && at.address == address
        {
            return Ok(at.client.clone());
        }
        let tls = verify::dialling(&self.trust, Arc::clone(&self.identity), node)
            .map_err(|error| Error::Unreachable { node: node.to_owned(), reason: error.to_string() })?;
        let client = Client::new(dial::channel(node, &address, tls));
        clients.insert(node.to_owned(), At { address, client: client.clone() });
        Ok(client)
    }
}

#[async_trait]
impl Nodes for Dialled {
    async fn names(&self) -> Result<Vec<String>, Error> {
        let names = self.directory.names().await?;
        // What is not there any more is not to be connected to for ever.
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|node, _| names.contains(node));
        Ok(names)
    }

    async fn agent(&self, node: &str) -> Result<Client, Error> {
        let address = self.directory.address(node).await?;
        self.client(node, address)
    }
}
