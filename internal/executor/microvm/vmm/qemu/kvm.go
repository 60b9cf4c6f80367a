package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// kvmTimeout bounds the trial of KVM. Where it works the trial takes a tenth
// of a second.
const kvmTimeout = 10 * time.Second

// tryKVM tells why KVM can't run guests here, nil if it can. That the device
// opens proves nothing: the trial guest uses the instructions on which hosts
// fail that only look as if they had KVM.
func tryKVM(ctx context.Context) error {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return errors.New("there is no /dev/kvm")
	}
	if _, err := os.Stat("/sys/module/kvm_pvm"); err == nil {
		return errors.New("KVM here runs guests in an instruction emulator (kvm_pvm)")
	}
	dir, err := os.MkdirTemp("", "nimbus-kvm-")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(dir)
	kernel := filepath.Join(dir, "trial.elf")
	if err := os.WriteFile(kernel, trialKernel(), 0o600); err != nil {
		return fmt.Errorf("write trial: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, kvmTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, trialArgs("kvm", "host", kernel)...).Output()
	switch {
	case ctx.Err() != nil:
		return errors.New("a trial guest did not run under KVM")
	case !bytes.Contains(out, []byte(trialWord)):
		return fmt.Errorf("a trial guest said nothing under KVM (QEMU: %w)", err)
	}
	return nil
}

func trialArgs(accelerator, cpu, kernel string) []string {
	return []string{
		"-M", "microvm", "-accel", accelerator, "-cpu", cpu, "-m", "64M",
		"-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-kernel", kernel,
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
	}
}

// trialWord is what the trial guest writes to its serial port.
const trialWord = "ok"

// trialKernel is the smallest guest that tells whether KVM is real: a 32-bit
// ELF file with a PVH note, entered in protected mode. It compares and swaps
// under a lock, saves and restores the floating point state (where instruction
// emulators give up), prints its word, and faults, which ends QEMU.
func trialKernel() []byte {
	const load = 0x100000
	code := []byte{
		0xbc, 0x00, 0x80, 0x10, 0x00, // mov esp, 0x108000
		0x0f, 0x20, 0xe0, // mov eax, cr4
		0x0d, 0x00, 0x06, 0x00, 0x00, // or eax, OSFXSR|OSXMMEXCPT
		0x0f, 0x22, 0xe0, // mov cr4, eax
		0xf0, 0x0f, 0xc7, 0x0d, 0x00, 0x90, 0x10, 0x00, // lock cmpxchg8b [0x109000]
		0x0f, 0xae, 0x05, 0x00, 0xa0, 0x10, 0x00, // fxsave [0x10a000]
		0x0f, 0xae, 0x0d, 0x00, 0xa0, 0x10, 0x00, // fxrstor [0x10a000]
		0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
	}
	for _, c := range []byte(trialWord) {
		code = append(code, 0xb0, c, 0xee) // mov al, c; out dx, al
	}
	code = append(code, 0x0f, 0x0b) // ud2, without a handler: a triple fault

	le := binary.LittleEndian
	const headerSize, programSize, noteSize = 52, 32, 20
	noteOffset := uint32(headerSize + 2*programSize)
	codeOffset := noteOffset + noteSize
	elf := append([]byte("\x7fELF"), 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	elf = le.AppendUint16(elf, 2) // executable
	elf = le.AppendUint16(elf, 3) // i386
	for _, v := range []uint32{1, load, headerSize, 0, 0} {
		elf = le.AppendUint32(elf, v)
	}
	for _, v := range []uint16{headerSize, programSize, 2, 0, 0, 0} {
		elf = le.AppendUint16(elf, v)
	}
	size := uint32(len(code))
	const loadable, note, readExecute = 1, 4, 5
	for _, v := range []uint32{loadable, codeOffset, load, load, size, size, readExecute, 1} {
		elf = le.AppendUint32(elf, v)
	}
	for _, v := range []uint32{note, noteOffset, 0, 0, noteSize, noteSize, 4, 4} {
		elf = le.AppendUint32(elf, v)
	}
	const physical32Entry = 18 // XEN_ELFNOTE_PHYS32_ENTRY
	for _, v := range []uint32{4, 4, physical32Entry} {
		elf = le.AppendUint32(elf, v)
	}
	elf = append(elf, "Xen\x00"...)
	elf = le.AppendUint32(elf, load)
	return append(elf, code...)
}
