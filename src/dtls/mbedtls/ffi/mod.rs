//! The one place of the program with `unsafe`: calls into Mbed TLS, and what Mbed TLS calls back.
//!
//! What the rest sees of it is safe: a [`Config`] is what sessions have in common, a [`Context`]
//! is one session. Both own what C points to, at addresses that do not move.
//!
//! The rules that every block here leans on:
//!
//! * **Addresses.** All that C keeps a pointer to lives in an [`Object`] (a box that is taken apart
//!   only when it is dropped) or in the [`Io`] of its context, which is handled in the same way.
//! * **No reference to an [`Io`] lives while C runs.** C hands its address to the callbacks, and
//!   each makes its own short-lived reference. Rust touches it through [`Context::io`], which
//!   borrows the context, and every call into C needs that borrow for itself.
//! * **A [`Config`] is written only while it is built.** Sessions on several threads read it.
//! * **No panic crosses C.** The callbacks that run code of others (`Keys`) catch it; in the
//!   others there is nothing that panics, and if there were, `extern "C"` would abort.
//! * **A context that has failed is not used again**, but for being freed.

#![allow(unsafe_code)]

mod callbacks;
mod certificate;
mod clock;
mod config;
mod context;

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::raw::{c_char, c_int};
use std::ptr::NonNull;

pub(super) use certificate::Trust;
pub use config::SetupError;
pub(super) use config::{Build, Config, LONGEST_KEY, Role};
pub(super) use context::{Context, Failure, Item, Opening, PskPeer, Read, Step};

unsafe extern "C" {
    // In error.c, which is compiled in (MBEDTLS_ERROR_C), but not in the bindings.
    fn mbedtls_strerror(code: c_int, buffer: *mut c_char, length: usize);
}

/// The words that Mbed TLS has for an error code.
fn words(code: c_int) -> String {
    let mut buffer = [0u8; 160];
    // SAFETY: the buffer has the length that is given; the function writes a string with its NUL
    // into it, cut to that length.
    unsafe { mbedtls_strerror(code, buffer.as_mut_ptr().cast(), buffer.len()) };
    let text = CStr::from_bytes_until_nul(&buffer)
        .map(CStr::to_string_lossy)
        .unwrap_or_default();
    // "SSL - Bad input" becomes "bad input": the library's own headings say nothing to the reader.
    let text = text.split_once(" - ").map_or(&*text, |(_, rest)| rest);
    format!("{text} (-{:#06x})", code.unsigned_abs())
}

/// A struct of Mbed TLS at an address that does not change.
struct Object<T> {
    at: NonNull<T>,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Object<T> {
    /// A struct of its own, after `init`.
    ///
    /// # Safety
    ///
    /// `init` makes a `T` of zeroed memory, and `free` gives back all that such a `T` owns, and
    /// may be called in every state that the struct can get into.
    unsafe fn new(init: unsafe extern "C" fn(*mut T), free: unsafe extern "C" fn(*mut T)) -> Self {
        let memory = Box::new(MaybeUninit::<T>::zeroed());
        let at = NonNull::from(Box::leak(memory)).cast::<T>();
        // SAFETY: the memory is as large and aligned as a T, zeroed, and nobody else's; the caller
        // promises the rest.
        unsafe { init(at.as_ptr()) };
        Self { at, free }
    }

    fn ptr(&self) -> *mut T {
        self.at.as_ptr()
    }
}

impl<T> Drop for Object<T> {
    fn drop(&mut self) {
        // SAFETY: `free` belongs to this type (`new`), and this is its only call. After it the
        // memory owns nothing, and it came out of a box of exactly this type.
        unsafe {
            (self.free)(self.ptr());
            drop(Box::from_raw(self.ptr().cast::<MaybeUninit<T>>()));
        }
    }
}
