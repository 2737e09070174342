//! Objects as they are kept between passes: a thousand databases have more than twenty thousand of them, each of which is read
//! twice a minute. As text, and compressed by what others of its kind look like, one takes a hundredth of what it takes in JSON's
//! tree.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use serde::de::Error as _;
use serde_json::Value;
use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

/// Fast, and no worse than slower ones where most of a text is known already.
const LEVEL: i32 = 3;
/// How many objects of a kind are looked at: those of one database, and their like of a second.
const SAMPLES: usize = 12;
/// What of them is remembered at the most.
const SAMPLED: usize = 16 << 10;

/// What objects of a kind look like.
struct Dictionary {
    encoder: EncoderDictionary<'static>,
    decoder: DecoderDictionary<'static>,
}

/// Packs objects of one kind.
#[derive(Default)]
pub struct Packer {
    samples: RwLock<Vec<Vec<u8>>>,
    dictionary: OnceLock<Arc<Dictionary>>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("learned", &self.dictionary.get().is_some()).finish()
    }
}

/// An object.
#[derive(Clone)]
pub struct Packed {
    bytes: Arc<[u8]>,
    /// Of the text.
    length: u32,
    dictionary: Option<Arc<Dictionary>>,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packed").field("bytes", &self.bytes.len()).field("length", &self.length).finish()
    }
}

impl Packer {
    /// Packs an object, and learns from it while few are known.
    pub fn pack(&self, object: &Value) -> Packed {
        let text = serde_json::to_vec(object).unwrap_or_default();
        if self.dictionary.get().is_none() {
            self.learn(&text);
        }
        let dictionary = self.dictionary.get().cloned();
        let packed = match &dictionary {
            Some(dictionary) => Compressor::with_prepared_dictionary(&dictionary.encoder),
            None => Compressor::new(LEVEL),
        };
        let length = u32::try_from(text.len()).ok();
        match packed.and_then(|mut compressor| compressor.compress(&text)).ok().zip(length) {
            Some((bytes, length)) => Packed { bytes: bytes.into(), length, dictionary },
            // There is no memory for it, or it is larger than an API server takes: as it is, then.
            None => Packed { bytes: text.into(), length: 0, dictionary: None },
        }
    }

    fn learn(&self, text: &[u8]) {
        let mut samples = self.samples.write().unwrap_or_else(PoisonError::into_inner);
        samples.push(text.to_vec());
        let size: usize = samples.iter().map(Vec::len).sum();
        if samples.len() < SAMPLES && size < SAMPLED {
            return;
        }
        // What is looked for most often should be at the end.
        let all = samples.concat();
        let content = &all[all.len().saturating_sub(SAMPLED)..];
        let _ = self.dictionary.set(Arc::new(Dictionary {
            encoder: EncoderDictionary::copy(content, LEVEL),
            decoder: DecoderDictionary::copy(content),
        }));
        samples.clear();
        samples.shrink_to_fit();
    }
}

impl Packed {
    /// The object.
    ///
    /// # Errors
    /// Where there is no memory for it: an object that cannot be read must not be taken for one that is not there.
    pub fn unpack(&self) -> Result<Value, serde_json::Error> {
        let length = usize::try_from(self.length).unwrap_or_default();
        if length == 0 {
            return serde_json::from_slice(&self.bytes);
        }
        let unpacker = match &self.dictionary {
            Some(dictionary) => Decompressor::with_prepared_dictionary(&dictionary.decoder),
            None => Decompressor::new(),
        };
        let text = unpacker.and_then(|mut unpacker| unpacker.decompress(&self.bytes, length));
        serde_json::from_slice(&text.map_err(serde_json::Error::custom)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(number: usize) -> Value {
        let name = format!("orders-{number}");
        let ports: Vec<Value> = (0..20).map(|port| json!({ "port": port, "protocol": "TCP" })).collect();
        json!({ "metadata": { "name": name, "labels": { "a": name, "b": "\u{1F418}" } }, "spec": { "ports": ports } })
    }

    #[test]
    fn every_object_comes_out_as_it_went_in() {
        let packer = Packer::default();
        let packed: Vec<Packed> = (0..100).map(|number| packer.pack(&object(number))).collect();
        for (number, packed) in packed.iter().enumerate() {
            assert_eq!(packed.unpack().unwrap(), object(number));
        }
        assert!(packed[0].dictionary.is_none() && packed[99].dictionary.is_some());
        // Of others of its kind, little more than the name tells it apart.
        assert!(packed[99].bytes.len() * 10 < object(99).to_string().len(), "{packed:?}");
        let other = json!({ "metadata": { "name": "x" }, "data": "entirely different" });
        assert_eq!(packer.pack(&other).unpack().unwrap(), other);
        assert_eq!(packer.pack(&Value::Null).unpack().unwrap(), Value::Null);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_not_nothing() {
        let packer = Packer::default();
        let packed = packer.pack(&object(1));
        let cut = Packed { bytes: packed.bytes[..packed.bytes.len() / 2].into(), ..packed };
        assert!(cut.unpack().is_err());
    }
}
