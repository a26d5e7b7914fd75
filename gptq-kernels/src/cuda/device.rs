//! A GPU: found or not, its memory, and its kernels.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::{CString, c_void},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cudarc::driver::{
    CudaContext, CudaStream, DriverError, result,
    sys::{self, CUdevice_attribute_enum as Attribute, CUfunction_attribute_enum as Limit},
};
use gptq_core::Error;

use super::{blas::Blas, kernels::Limits, launch::Kernel, modules, tape::Tape};

/// The oldest GPUs with asynchronous copies and products of bf16.
const OLDEST: (i32, i32) = (8, 0);
/// The first GPUs whose kernels may begin early, and the only ones with products of warpgroups.
const HOPPER: (i32, i32) = (9, 0);

pub(super) struct Device {
    pub(super) name: String,
    pub(super) capability: (i32, i32),
    /// The compute capability that kernels are chosen for: its own, or an earlier one.
    pub(super) chosen_for: (i32, i32),
    pub(super) multiprocessors: u32,
    /// Bytes of shared memory that one block may have.
    pub(super) shared: u32,
    pub(super) blas: Option<Blas>,
    context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
    kernels: Mutex<HashMap<&'static str, Kernel>>,
    loaded: Mutex<HashMap<usize, usize>>,
    together: Mutex<HashMap<(&'static str, u32), usize>>,
    free: Mutex<Free>,
    tape: Mutex<Tape>,
    counters: Mutex<(sys::CUdeviceptr, usize)>,
}

/// Memory that nothing holds, by size and then by place: the same operations get the same places,
/// which is what lets one token's launches stand for the next one's.
#[derive(Default)]
struct Free(BTreeMap<usize, BTreeSet<sys::CUdeviceptr>>);

/// Bytes on the device.
pub(super) struct Buffer {
    device: Arc<Device>,
    pub(super) at: sys::CUdeviceptr,
    size: usize,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        lock(&self.device.free).0.entry(self.size).or_default().insert(self.at);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // A GPU that is lost has nothing left to free.
        if self.release().is_err() {
            return;
        }
        let places = [self.tape().take_arena(), Some(lock(&self.counters).0)];
        for at in places.into_iter().flatten().filter(|&at| at != 0) {
            // SAFETY: came from `malloc_sync`; `release` waited for all work, and no one can ask
            // for more.
            let _ = unsafe { result::free_sync(at) };
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn failure(message: String) -> Error {
    Error::Backend { message }
}

/// What went wrong on the device, in words of the user.
pub(super) fn failed(what: &str, error: DriverError) -> Error {
    use sys::cudaError_enum as E;
    let name = error.error_name().ok().and_then(|name| name.to_str().ok().map(str::to_owned));
    let name = name.unwrap_or_else(|| format!("error {}", error.0 as u32));
    let advice = match error.0 {
        E::CUDA_ERROR_OUT_OF_MEMORY => {
            "the GPU's memory is full; other programs on it count too: free some, use a shorter \
             context, or --device cpu"
        }
        E::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "the driver is older than this program's kernels; a driver of version 550 or later \
             takes them"
        }
        E::CUDA_ERROR_NO_BINARY_FOR_GPU | E::CUDA_ERROR_INVALID_PTX => {
            "the driver cannot compile this program's kernels for this GPU; update the driver, or \
             use --device cpu"
        }
        E::CUDA_ERROR_NO_DEVICE => "a driver is there, but no GPU that it can use",
        _ => "the GPU stopped; nothing on disk is affected. Run again, or use --device cpu",
    };
    failure(format!("CUDA: {what}: {name}: {advice}"))
}

impl Device {
    /// With kernels for GPUs of at most the compute capability `most`.
    pub(super) fn open(ordinal: usize, most: Option<(i32, i32)>) -> Result<Arc<Self>, Error> {
        // SAFETY: asks the loader for a library, and runs its initialisers, as every use of it does.
        if !unsafe { sys::is_culib_present() } {
            return Err(failure(
                "no CUDA driver was found (libcuda.so); install NVIDIA's driver, or use --device \
                 cpu"
                .into(),
            ));
        }
        let context = CudaContext::new(ordinal).map_err(|e| failed("opening the GPU", e))?;
        let asked = |e| failed("asking the GPU what it is", e);
        let name = context.name().map_err(asked)?;
        let capability = context.compute_capability().map_err(asked)?;
        if capability < OLDEST {
            return Err(failure(format!(
                "{name} has compute capability {}.{}; these kernels need {}.{} (Ampere) or later: \
                 use --device cpu",
                capability.0, capability.1, OLDEST.0, OLDEST.1
            )));
        }
        let chosen_for = most.map_or(capability, |most| most.min(capability));
        if chosen_for < OLDEST {
            return Err(failure(format!(
                "there are no kernels for compute capability {}.{}; the first are for {}.{}",
                chosen_for.0, chosen_for.1, OLDEST.0, OLDEST.1
            )));
        }
        let attribute = |of| context.attribute(of).map_err(asked);
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let stream = context.new_stream().map_err(asked)?;
        Ok(Arc::new(Self {
            name,
            capability,
            chosen_for,
            multiprocessors: multiprocessors.max(1) as u32,
            shared: shared.max(0) as u32,
            blas: Blas::open(&stream),
            context,
            stream,
            kernels: Mutex::default(),
            loaded: Mutex::default(),
            together: Mutex::default(),
            free: Mutex::default(),
            tape: Mutex::default(),
            counters: Mutex::default(),
        }))
    }

    /// CUDA calls are about the context that is current on this thread.
    pub(super) fn enter(&self) -> Result<(), Error> {
        self.context.bind_to_thread().map_err(|e| failed("choosing the GPU", e))
    }

    /// What is asked of the stream is asked under this lock: while another thread records a graph,
    /// it would become part of it.
    pub(super) fn tape(&self) -> MutexGuard<'_, Tape> {
        lock(&self.tape)
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            shared: self.shared,
            warpgroups: self.capability == HOPPER && self.chosen_for == HOPPER,
            early: self.chosen_for >= HOPPER,
        }
    }

    /// Free and total memory in bytes.
    pub(super) fn memory(&self) -> Result<(usize, usize), Error> {
        self.context.mem_get_info().map_err(|e| failed("asking for its memory", e))
    }

    /// Memory for so many words of 4 bytes. What is in it is undefined.
    pub(super) fn words(self: &Arc<Self>, words: usize) -> Result<Buffer, Error> {
        let size = size_class(words.max(1) * 4);
        let take = || lock(&self.free).0.get_mut(&size).and_then(BTreeSet::pop_first);
        if let Some(at) = take() {
            return Ok(Buffer { device: self.clone(), at, size });
        }
        self.enter()?;
        // SAFETY: a plain allocation in the current context.
        let mut got = unsafe { result::malloc_sync(size) };
        if got.is_err_and(|e| e.0 == sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY) {
            self.release()?;
            // SAFETY: as above.
            got = unsafe { result::malloc_sync(size) };
        }
        let at = got.map_err(|e| {
            let of = self.memory().map_or(String::new(), |(free, total)| {
                format!(" ({} of {} MiB are free)", free >> 20, total >> 20)
            });
            failed(&format!("allocating {} MiB{of}", size.div_ceil(1 << 20)), e)
        })?;
        Ok(Buffer { device: self.clone(), at, size })
    }

    /// So many zeros. Kernels count with them where blocks meet, one kernel after the other, and
    /// leave zeros.
    pub(super) fn counters(&self, many: usize) -> Result<sys::CUdeviceptr, Error> {
        let mut counters = lock(&self.counters);
        if counters.1 < many {
            let size = many.next_power_of_two().max(1 << 14);
            self.enter()?;
            let _recording = self.tape();
            // What was too small stays: launches on the tape know it.
            // SAFETY: a plain allocation in the current context, and exactly its bytes.
            let made = unsafe {
                result::malloc_sync(4 * size).and_then(|at| {
                    result::memset_d8_async(at, 0, 4 * size, self.stream.cu_stream())?;
                    Ok(at)
                })
            };
            *counters = (made.map_err(|e| failed("allocating counters", e))?, size);
        }
        Ok(counters.0)
    }

    /// Gives memory that nothing holds back to the driver.
    pub(super) fn release(&self) -> Result<(), Error> {
        // What waits on the tape may still mean to use it, and nothing comes onto it meanwhile.
        let mut tape = self.tape();
        tape.forget(self)?;
        let free = std::mem::take(&mut lock(&self.free).0);
        drop(tape);
        for at in free.into_values().flatten() {
            // SAFETY: came from `malloc_sync`, nothing holds it, and no work is under way.
            unsafe { result::free_sync(at) }.map_err(|e| failed("freeing memory", e))?;
        }
        Ok(())
    }

    /// Waits until all work is done.
    pub(super) fn finish(&self) -> Result<(), Error> {
        let mut tape = self.tape();
        tape.run(self)?;
        self.stream.synchronize().map_err(|e| failed("waiting for the GPU", e))
    }

    /// Copies to the device, after all that was asked before.
    pub(super) fn write(&self, to: &Buffer, bytes: &[u8]) -> Result<(), Error> {
        assert!(bytes.len() <= to.size, "more bytes than the buffer has");
        let mut tape = self.tape();
        tape.run(self)?;
        // SAFETY: the buffer has room, checked above; the driver has read the bytes on return,
        // because they are in memory that it cannot read on its own.
        unsafe { result::memcpy_htod_async(to.at, bytes, self.stream.cu_stream()) }
            .map_err(|e| failed("copying to the GPU", e))
    }

    /// Copies from the device, and waits for it.
    pub(super) fn read(&self, from: &Buffer, into: &mut [u8]) -> Result<(), Error> {
        assert!(into.len() <= from.size, "more bytes than the buffer has");
        let mut tape = self.tape();
        tape.run(self)?;
        tape.traffic.bytes_read += into.len() as u64;
        // SAFETY: the buffer has so many bytes; `into` stays until the wait below.
        unsafe { result::memcpy_dtoh_async(into, from.at, self.stream.cu_stream()) }
            .map_err(|e| failed("copying from the GPU", e))?;
        self.stream.synchronize().map_err(|e| failed("waiting for the GPU", e))
    }

    /// Sets every byte.
    pub(super) fn fill(&self, buffer: &Buffer, byte: u8) -> Result<(), Error> {
        let mut tape = self.tape();
        tape.run(self)?;
        // SAFETY: exactly the buffer's bytes.
        unsafe { result::memset_d8_async(buffer.at, byte, buffer.size, self.stream.cu_stream()) }
            .map_err(|e| failed("filling memory", e))
    }

    /// Blocks of a kernel that run on a multiprocessor together.
    pub(super) fn blocks_together(
        &self,
        name: &'static str,
        threads: u32,
        shared: u32,
    ) -> Result<usize, Error> {
        let key = (name, shared);
        if let Some(&blocks) = lock(&self.together).get(&key) {
            return Ok(blocks);
        }
        let kernel = self.kernel(name)?;
        // SAFETY: the kernel is of this context.
        let blocks = unsafe {
            result::occupancy::max_active_block_per_multiprocessor(
                kernel.function as sys::CUfunction,
                threads as i32,
                shared as usize,
            )
        };
        let blocks = blocks.map_err(|e| failed("asking how many blocks fit", e))?.max(1) as usize;
        lock(&self.together).insert(key, blocks);
        Ok(blocks)
    }

    /// A kernel, compiled by the driver when it is asked for the first time.
    pub(super) fn kernel(&self, name: &'static str) -> Result<Kernel, Error> {
        if let Some(kernel) = lock(&self.kernels).get(name) {
            return Ok(*kernel);
        }
        let missing = || failure(format!("this build has no CUDA kernel named {name}"));
        let early = if self.limits().early { modules::early(name) } else { None };
        let source = early.or_else(|| modules::source(name)).ok_or_else(missing)?;
        let text = |s: &str| CString::new(s).map_err(|_| missing());
        let failing = |e| failed(&format!("loading the kernel {name}"), e);
        self.enter()?;
        let mut loaded = lock(&self.loaded);
        let module = match loaded.get(&(source.as_ptr() as usize)) {
            Some(&module) => module,
            None => {
                let code = modules::machine_code(name).filter(|_| self.limits().warpgroups);
                let module = match code.map(load) {
                    Some(Ok(module)) => module,
                    // Who does not take machine code gets the text that it is made of.
                    _ => load(source.as_bytes()).map_err(failing)?,
                };
                loaded.insert(source.as_ptr() as usize, module as usize);
                module as usize
            }
        };
        // SAFETY: the module was loaded in this context and is never unloaded.
        let function =
            unsafe { result::module::get_function(module as sys::CUmodule, text(name)?) }
                .map_err(failing)?;
        // SAFETY: the function is of this context.
        let own = unsafe {
            result::function::get_function_attribute(
                function,
                Limit::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
            )
        };
        let room = (self.shared as i32 - own.map_err(failing)?).max(0);
        let limit = Limit::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: as above; what the device allows is what it said.
        unsafe { result::function::set_function_attribute(function, limit, room) }
            .map_err(failing)?;
        if early.is_some() {
            // Kernels that want another share of a multiprocessor's memory would not run beside each
            // other on it.
            let share = Limit::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            // SAFETY: as above; 100 is all of it.
            unsafe { result::function::set_function_attribute(function, share, 100) }
                .map_err(failing)?;
        }
        let kernel = Kernel { function: function as usize, early: early.is_some() };
        lock(&self.kernels).insert(name, kernel);
        Ok(kernel)
    }
}

/// A module from PTX or machine code.
fn load(image: &[u8]) -> Result<sys::CUmodule, DriverError> {
    let mut copy = image.to_vec();
    copy.push(0);
    // SAFETY: a text that ends with a zero, or machine code, whose header says how long it is; the
    // driver has read it on return.
    unsafe { result::module::load_data(copy.as_ptr().cast::<c_void>()) }
}

/// Sizes that memory is kept in: four steps for each doubling, so that at most a fifth is wasted
/// and what is free fits what is asked for next.
fn size_class(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 8).max(512);
    bytes.next_multiple_of(step)
}
