//! Devices: probing, disks, network queues, entropy, balloon, console.
