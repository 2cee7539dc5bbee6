use super::*;

fn vm() -> Vm {
    Vm {
        machine: Machine::Q35,
        memory: 64 << 20,
        cpus: 2,
        kernel: "/k".into(),
        append: "init=/x".into(),
        image: "/a,b.img".into(),
        format: Format::Raw,
        window: None,
        firmware: None,
        root: RootKind::Disk,
        params: None,
        net: Net::User,
        nic: Nic::Virtio,
        disk: Disk::Virtio,
        publish: vec!["127.0.0.1:80:81".parse().unwrap(), "[::1]:5:6/udp".parse().unwrap()],
        accel: Accel::Tcg,
        icount: false,
        extra: vec!["-x".into()],
    }
}

fn line(vm: &Vm) -> String {
    vm.arguments().iter().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[test]
fn pci_machines() {
    let text = line(&vm());
    for part in [
        "-machine q35",
        "-m 65536k",
        "-smp 2",
        "file=/a,,b.img",
        "virtio-blk-pci,drive=root",
        "hostfwd=tcp:127.0.0.1:80-:81,hostfwd=udp:[::1]:5-:6",
        "virtio-net-pci,netdev=net0,romfile=",
        "virtio-rng-pci",
        "virtio-balloon-pci",
        "isa-debug-exit,iobase=0xf4",
        "-accel tcg,thread=multi -cpu max",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(text.ends_with(" -x") && !text.contains("mq=on") && !text.contains("-initrd"));
}

#[test]
fn microvm_is_modern_mmio() {
    let text = line(&Vm { machine: Machine::Microvm, ..vm() });
    assert!(
        text.contains("virtio-mmio.force-legacy=false")
            && text.contains("virtio-net-device,bus=virtio-mmio-bus.2,netdev=net0")
    );
    assert!(!text.contains("-pci"));
    assert!(text.contains("virtio-blk-device,bus=virtio-mmio-bus.1,drive=root"), "{text}");
    assert!(
        text.contains("init=/x virtio_mmio.device=512@0xfeb00200:25 virtio_mmio.device=512@0xfeb00400:26"),
        "{text}"
    );
}

#[test]
fn tap_has_a_queue_for_each_cpu() {
    let text = line(&Vm { net: Net::Tap("t0".into()), publish: vec![], ..vm() });
    assert!(text.contains("ifname=t0,script=no,downscript=no,queues=2") && text.contains("mq=on,vectors=6"));
}

#[test]
fn other_devices() {
    let text = line(&Vm { nic: Nic::Vmxnet3, disk: Disk::Pvscsi, ..vm() });
    assert!(text.contains("-device vmxnet3,netdev=net0,romfile=") && !text.contains("virtio-net"), "{text}");
    assert!(text.contains("-device pvscsi,id=scsi0 -device scsi-hd,bus=scsi0.0,drive=root") && !text.contains("-blk"));
    let text = line(&Vm { disk: Disk::Ahci, ..vm() });
    assert!(text.contains("snapshot=on") && !text.contains("readonly"), "{text}");
    let microvm = Vm { machine: Machine::Microvm, disk: Disk::VirtioScsi, ..vm() };
    let text = line(&microvm);
    assert!(text.contains("virtio-scsi-device,bus=virtio-mmio-bus.1,id=scsi0") && text.contains("scsi-hd,bus=scsi0.0"));
    microvm.check_devices().unwrap();
    assert!(Vm { nic: Nic::E1000, ..microvm.clone() }.check_devices().is_err());
    assert!(Vm { disk: Disk::Nvme, ..microvm }.check_devices().is_err());
}

#[test]
fn formats_and_firmware() {
    let text = line(&Vm { format: Format::Vhd, firmware: Some(Boot::Bios), ..vm() });
    assert!(text.contains("format=vpc") && !text.contains("-kernel") && !text.contains("-append"), "{text}");
    let text =
        line(&Vm { format: Format::Ova, window: Some((512, 1024)), firmware: Some(Boot::Uefi("/f,w".into())), ..vm() });
    assert!(text.contains("format=vmdk") && text.contains("file.offset=512,file.size=1024"), "{text}");
    assert!(text.contains("if=pflash,unit=0,format=raw,readonly=on,file=/f,,w"), "{text}");
}

#[test]
fn modules() {
    let text = line(&Vm { root: RootKind::Module, net: Net::None, ..vm() });
    assert!(text.contains("-initrd /a,b.img") && !text.contains("virtio-blk") && !text.contains("netdev"));
    let text = line(&Vm { params: Some("/p".into()), ..vm() });
    assert!(text.contains("-initrd /p") && text.contains("virtio-blk"));
}

#[test]
fn a_port_in_use_is_told() {
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let p = Publish { address: None, host: port, guest: 80, udp: false };
    let e = check_ports(&[p]).unwrap_err().to_string();
    assert!(e.contains(&format!("port {port} is in use")) && e.contains("-p "), "{e}");
    drop(listener);
    check_ports(&[p]).unwrap();
}
