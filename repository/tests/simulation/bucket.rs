//! The objects of a store, as they are at one moment; strongly consistent.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::{
    Error, GetOptions, GetResult, GetResultPayload, ObjectMeta, PutMode, PutResult, Result, path::Path,
};

/// An object, under a tag that no other content ever had.
#[derive(Clone)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    tag: u64,
}

/// Everything that is stored.
#[derive(Clone, Default)]
pub(crate) struct Bucket {
    objects: BTreeMap<String, Object>,
    tags: u64,
}

/// The answer to a read, before it goes out.
pub(crate) struct Found {
    meta: ObjectMeta,
    range: std::ops::Range<u64>,
    bytes: Bytes,
}

impl Bucket {
    /// Puts an object if the condition holds.
    pub(crate) fn put(&mut self, key: &str, bytes: Bytes, mode: &PutMode) -> Result<PutResult> {
        let standing = self.objects.get(key).map(Object::e_tag);
        let holds = match mode {
            PutMode::Overwrite => true,
            PutMode::Create => standing.is_none(),
            PutMode::Update(version) => standing.is_some() && standing == version.e_tag,
        };
        if !holds {
            return Err(refused(key, mode));
        }
        self.tags += 1;
        let object = Object { bytes, tag: self.tags };
        let e_tag = Some(object.e_tag());
        self.objects.insert(key.to_owned(), object);
        Ok(PutResult { e_tag, version: None, extensions: Default::default() })
    }

    /// Deletes an object; tells whether it was there.
    pub(crate) fn delete(&mut self, key: &str) -> bool {
        self.objects.remove(key).is_some()
    }

    /// Reads an object, or what is asked for of it.
    pub(crate) fn get(&self, location: &Path, options: &GetOptions) -> Result<Found> {
        let key = location.as_ref();
        let object = self.objects.get(key).ok_or_else(|| missing(key))?;
        let meta = object.meta(key);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range.as_range(meta.size).map_err(|source| generic(&source.to_string()))?,
            None => 0..meta.size,
        };
        let bytes = match options.head {
            true => Bytes::new(),
            false => object.bytes.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()),
        };
        Ok(Found { meta, range, bytes })
    }

    /// Lists up to `count` objects of a folder, from behind a key.
    pub(crate) fn page(&self, folder: &str, after: Option<&str>, count: usize) -> Vec<ObjectMeta> {
        let start = after.map_or(Bound::Included(folder), Bound::Excluded);
        self.objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(folder))
            .take(count)
            .map(|(key, object)| object.meta(key))
            .collect()
    }

    /// All keys that begin so.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        self.page(prefix, None, usize::MAX).into_iter().map(|meta| meta.location.to_string()).collect()
    }
}

impl Object {
    fn e_tag(&self) -> String {
        format!("\"{}\"", self.tag)
    }

    fn meta(&self, key: &str) -> ObjectMeta {
        ObjectMeta {
            location: Path::from(key),
            last_modified: Default::default(),
            size: self.bytes.len() as u64,
            e_tag: Some(self.e_tag()),
            version: None,
        }
    }
}

impl Found {
    /// The answer; where it is to break off, only a part of the body comes.
    pub(crate) fn answer(self, broken: bool) -> GetResult {
        let mut parts = vec![Ok(self.bytes.clone())];
        if broken {
            parts = vec![Ok(self.bytes.slice(..self.bytes.len() / 2)), Err(generic("the connection was reset"))];
        }
        GetResult {
            payload: GetResultPayload::Stream(stream::iter(parts).boxed()),
            meta: self.meta,
            range: self.range,
            attributes: Default::default(),
            extensions: Default::default(),
        }
    }
}

/// What a store says where the condition of a put does not hold.
pub(crate) fn refused(key: &str, mode: &PutMode) -> Error {
    let (path, source) = (key.to_owned(), "the condition does not hold".into());
    match mode {
        PutMode::Update(_) => Error::Precondition { path, source },
        _ => Error::AlreadyExists { path, source },
    }
}

/// What a store says of an object that is not there.
pub(crate) fn missing(key: &str) -> Error {
    Error::NotFound { path: key.to_owned(), source: "there is no such object".into() }
}

/// A failure that says nothing of what was done.
pub(crate) fn generic(text: &str) -> Error {
    Error::Generic { store: "simulated", source: text.into() }
}
