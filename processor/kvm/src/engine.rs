//! `KvmEngine`: opening the device and what it can do on this host.

use std::sync::Arc;

use bulkhead_engine::{CpuidTable, Engine, EngineError, EngineKind, Partition, PartitionConfig};
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Cap, Kvm};

use crate::partition::KvmPartition;
use crate::{cpuid, host_error};

/// The only version of the interface there has been since 2007.
const API_VERSION: i32 = 12;

/// What the partition cannot do without, and how it is called in messages.
const NEEDED: [(Cap, &str); 8] = [
    (Cap::SplitIrqchip, "the split interrupt controller"),
    (Cap::SignalMsi, "message-signalled interrupts"),
    (Cap::UserMemory, "user memory"),
    (Cap::ReadonlyMem, "read-only memory"),
    (Cap::ImmediateExit, "immediate exits"),
    (Cap::VcpuEvents, "saving of pending events"),
    (Cap::Xsave, "saving of extended state"),
    (Cap::X86UserSpaceMsr, "MSR exits"),
];

/// The engine; holds the open device.
pub struct KvmEngine {
    kvm: Arc<Kvm>,
    supported: CpuidTable,
}

impl KvmEngine {
    /// Opens `/dev/kvm` and looks for everything that is needed. Says nothing about speed: that is [`crate::probe`].
    ///
    /// # Errors
    /// `Unavailable` with the reason and what to do.
    pub fn open() -> Result<Self, EngineError> {
        let unavailable = |reason: String| EngineError::Unavailable { engine: "kvm", reason };
        let kvm = Kvm::new().map_err(|error| {
            let advice = match error.errno() {
                libc::ENOENT => "load the module kvm_intel or kvm_amd, and switch on VT-x or AMD-V in the firmware",
                libc::EACCES | libc::EPERM => "run as root or as a member of the group kvm",
                _ => "see the kernel log",
            };
            unavailable(format!("/dev/kvm cannot be opened ({error}); {advice}"))
        })?;
        let version = kvm.get_api_version();
        if version != API_VERSION {
            return Err(unavailable(format!("its interface has version {version}, not {API_VERSION}")));
        }
        if let Some((_, what)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(unavailable(format!("the host kernel's KVM lacks {what}; a newer kernel has it")));
        }
        let leaves = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(host_error("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(Self { kvm: Arc::new(kvm), supported: cpuid::from_kvm(&leaves) })
    }

    /// Rate at which the TSC of guests counts, in Hz: the host's.
    ///
    /// # Errors
    /// `Host` when the kernel makes no VM to ask, or does not know.
    pub fn tsc_hz(&self) -> Result<u64, EngineError> {
        let vm = self.kvm.create_vm().map_err(host_error("KVM_CREATE_VM"))?;
        let vcpu = vm.create_vcpu(0).map_err(host_error("KVM_CREATE_VCPU"))?;
        let khz = vcpu.get_tsc_khz().map_err(host_error("KVM_GET_TSC_KHZ"))?;
        Ok(u64::from(khz) * 1000)
    }

    /// The open device.
    pub(crate) fn kvm(&self) -> &Kvm {
        &self.kvm
    }
}

impl Engine for KvmEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Kvm
    }

    fn max_vps(&self) -> u32 {
        u32::try_from(self.kvm.get_max_vcpus()).unwrap_or(u32::MAX)
    }

    fn supported_cpuid(&self) -> CpuidTable {
        self.supported.clone()
    }

    fn create_partition(&self, config: PartitionConfig) -> Result<Arc<dyn Partition>, EngineError> {
        if config.deterministic {
            return Err(EngineError::Unsupported {
                engine: "kvm",
                what: "deterministic mode; use --engine soft".into(),
            });
        }
        if config.vp_count == 0 || config.vp_count > self.max_vps() {
            let what = format!("{} virtual processors; it takes 1 to {}", config.vp_count, self.max_vps());
            return Err(EngineError::Unsupported { engine: "kvm", what });
        }
        Ok(Arc::new(KvmPartition::new(self.kvm.clone(), config)?))
    }
}
