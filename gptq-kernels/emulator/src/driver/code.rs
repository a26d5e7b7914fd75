//! Result codes, with their names.

use std::ffi::{CStr, c_char};

use super::state::put;

/// A result other than success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Code(pub(super) u32);

macro_rules! codes {
    ($($name:ident $number:literal $c:literal $text:literal;)*) => {
        impl Code {
            $(pub(super) const $name: Self = Self($number);)*
        }

        fn describe(code: u32) -> Option<(&'static CStr, &'static CStr)> {
            Some(match code {
                0 => (c"CUDA_SUCCESS", c"no error"),
                $($number => ($c, $text),)*
                _ => return None,
            })
        }
    };
}

codes! {
    INVALID_VALUE 1 c"CUDA_ERROR_INVALID_VALUE" c"invalid argument";
    OUT_OF_MEMORY 2 c"CUDA_ERROR_OUT_OF_MEMORY" c"out of memory";
    NO_DEVICE 100 c"CUDA_ERROR_NO_DEVICE" c"no CUDA-capable device is detected";
    INVALID_DEVICE 101 c"CUDA_ERROR_INVALID_DEVICE" c"invalid device ordinal";
    INVALID_IMAGE 200 c"CUDA_ERROR_INVALID_IMAGE" c"device kernel image is invalid";
    INVALID_PTX 218 c"CUDA_ERROR_INVALID_PTX" c"a PTX JIT compilation failed";
    FILE_NOT_FOUND 301 c"CUDA_ERROR_FILE_NOT_FOUND" c"file not found";
    INVALID_HANDLE 400 c"CUDA_ERROR_INVALID_HANDLE" c"invalid resource handle";
    NOT_FOUND 500 c"CUDA_ERROR_NOT_FOUND" c"named symbol not found";
    ILLEGAL_ADDRESS 700 c"CUDA_ERROR_ILLEGAL_ADDRESS" c"an illegal memory access was encountered";
    LAUNCH_FAILED 719 c"CUDA_ERROR_LAUNCH_FAILED" c"unspecified launch failure";
    NOT_SUPPORTED 801 c"CUDA_ERROR_NOT_SUPPORTED" c"operation not supported";
    CAPTURE_UNSUPPORTED 900 c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
        c"operation not permitted when stream is capturing";
    CAPTURE_INVALIDATED 901 c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
        c"operation failed due to a previous error during capture";
    CAPTURE_ISOLATION 905 c"CUDA_ERROR_STREAM_CAPTURE_ISOLATION"
        c"dependency created on uncaptured work in another stream";
    CAPTURED_EVENT 907 c"CUDA_ERROR_CAPTURED_EVENT"
        c"operation not permitted on an event last recorded in a capturing stream";
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGetErrorName(error: u32, text: *mut *const c_char) -> u32 {
    let found = describe(error);
    put(text, found.map_or(std::ptr::null(), |(name, _)| name.as_ptr()));
    u32::from(found.is_none())
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGetErrorString(error: u32, text: *mut *const c_char) -> u32 {
    let found = describe(error);
    put(text, found.map_or(std::ptr::null(), |(_, text)| text.as_ptr()));
    u32::from(found.is_none())
}
