//! Objects as they are kept between passes: a thousand databases have more than twenty thousand of them, each of which is read
//! twice a minute. As text, and compressed by what others of its kind look like, one takes a hundredth of what it takes in JSON's
//! tree.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::de::Error as _;
use serde_json::Value;
use zstd::zstd_safe::{CCtx, CDict, DCtx, DDict, compress_bound, get_error_name};

/// The fastest: most of a text is known already, and a dictionary takes less memory than for the others.
const LEVEL: i32 = 1;
/// How many objects of a kind are looked at: those of one database, and their like of a second.
const SAMPLES: usize = 12;
/// What of them is remembered at the most.
const SAMPLED: usize = 16 << 10;

/// What objects of a kind look like.
struct Dictionary {
    encoder: CDict<'static>,
    decoder: DDict<'static>,
}

impl Dictionary {
    fn of(content: &[u8]) -> Option<Self> {
        let (encoder, decoder) = (CDict::try_create(content, LEVEL)?, DDict::try_create(content)?);
        Some(Self { encoder, decoder })
    }
}

thread_local! {
    /// To make one takes longer than to use it.
    static CONTEXTS: RefCell<(Option<CCtx<'static>>, Option<DCtx<'static>>)> = const { RefCell::new((None, None)) };
}

/// Packs objects of one kind.
#[derive(Default)]
pub struct Packer {
    samples: Mutex<Vec<Vec<u8>>>,
    dictionary: OnceLock<Option<Dictionary>>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("learned", &self.dictionary.get().is_some()).finish()
    }
}

/// How an object was packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Not at all.
    Plain,
    /// By itself.
    Alone,
    /// By the dictionary.
    Learned,
}

/// An object. Only the packer that packed it can unpack it.
#[derive(Clone, Debug)]
pub struct Packed {
    bytes: Arc<[u8]>,
    /// Of the text.
    length: u32,
    form: Form,
}

impl Packer {
    /// Packs an object, and learns from it while few are known.
    pub fn pack(&self, object: &Value) -> Packed {
        let text = serde_json::to_vec(object).unwrap_or_default();
        if self.dictionary.get().is_none() {
            self.learn(&text);
        }
        let dictionary = self.dictionary.get().and_then(Option::as_ref);
        let form = if dictionary.is_some() { Form::Learned } else { Form::Alone };
        let packed =
            u32::try_from(text.len()).ok().and_then(|length| Some((length, compress(&text, dictionary)?)));
        match packed {
            Some((length, bytes)) => Packed { bytes: bytes.into(), length, form },
            // There is no memory for it, or it is larger than an API server takes.
            None => Packed { bytes: text.into(), length: 0, form: Form::Plain },
        }
    }

    /// The object.
    ///
    /// # Errors
    /// Where there is no memory for it: an object that cannot be read must not be taken for one that is not there.
    pub fn unpack(&self, packed: &Packed) -> Result<Value, serde_json::Error> {
        let dictionary = match packed.form {
            Form::Plain => return serde_json::from_slice(&packed.bytes),
            Form::Alone => None,
            Form::Learned => self.dictionary.get().and_then(Option::as_ref),
        };
        let text = decompress(packed, dictionary).map_err(serde_json::Error::custom)?;
        serde_json::from_slice(&text)
    }

    fn learn(&self, text: &[u8]) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push(text.to_vec());
        let size: usize = samples.iter().map(Vec::len).sum();
        if samples.len() < SAMPLES && size < SAMPLED {
            return;
        }
        let all = std::mem::take(&mut *samples).concat();
        let _ = self.dictionary.set(Dictionary::of(&all[all.len().saturating_sub(SAMPLED)..]));
    }
}

fn compress(text: &[u8], dictionary: Option<&Dictionary>) -> Option<Vec<u8>> {
    CONTEXTS.with_borrow_mut(|(context, _)| {
        if context.is_none() {
            *context = CCtx::try_create();
        }
        let (context, mut packed) = (context.as_mut()?, Vec::with_capacity(compress_bound(text.len())));
        match dictionary {
            Some(dictionary) => context.compress_using_cdict(&mut packed, text, &dictionary.encoder),
            None => context.compress(&mut packed, text, LEVEL),
        }
        .ok()?;
        Some(packed)
    })
}

fn decompress(packed: &Packed, dictionary: Option<&Dictionary>) -> Result<Vec<u8>, &'static str> {
    CONTEXTS.with_borrow_mut(|(_, context)| {
        if context.is_none() {
            *context = DCtx::try_create();
        }
        let context = context.as_mut().ok_or("no memory")?;
        let mut text = Vec::with_capacity(usize::try_from(packed.length).unwrap_or_default());
        match dictionary {
            Some(dictionary) => context.decompress_using_ddict(&mut text, &packed.bytes, &dictionary.decoder),
            None => context.decompress(&mut text, &packed.bytes),
        }
        .map_err(get_error_name)?;
        Ok(text)
    })
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
            assert_eq!(packer.unpack(packed).unwrap(), object(number));
        }
        assert!(packed[0].form == Form::Alone && packed[99].form == Form::Learned);
        // Of others of its kind, little more than the name tells it apart.
        assert!(packed[99].bytes.len() * 10 < object(99).to_string().len(), "{packed:?}");
        let other = json!({ "metadata": { "name": "x" }, "data": "entirely different" });
        assert_eq!(packer.unpack(&packer.pack(&other)).unwrap(), other);
        assert_eq!(packer.unpack(&packer.pack(&Value::Null)).unwrap(), Value::Null);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_not_nothing() {
        let packer = Packer::default();
        let packed = packer.pack(&object(1));
        let cut = Packed { bytes: packed.bytes[..packed.bytes.len() / 2].into(), ..packed };
        assert!(packer.unpack(&cut).is_err());
    }
}
