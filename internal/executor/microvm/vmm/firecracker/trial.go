package firecracker

import "encoding/binary"

// TrialWord is what a trial guest writes to its serial port.
const TrialWord = "ok"

// Trial is a kind of trial guest.
type Trial int

// The kinds. Each says its word first.
const (
	// TrialStrict uses before what a kernel uses and instruction emulators
	// lack, and resets the machine then, which ends Firecracker.
	TrialStrict Trial = iota
	// TrialPlain only resets the machine.
	TrialPlain
	// TrialTicking writes a dot now and then for ever.
	TrialTicking
)

// TrialKernel is the smallest guest that Firecracker loads: a 64-bit ELF file
// without a note, entered in long mode with the lowest gigabyte mapped.
func TrialKernel(kind Trial) []byte {
	const load, scratch = 0x200000, 0x201000
	le := binary.LittleEndian
	var code []byte
	if kind == TrialStrict {
		code = append(code, 0x0f, 0x20, 0xe0)                                             // mov rax, cr4
		code = append(code, 0x0d, 0x00, 0x06, 0x00, 0x00)                                 // or eax, OSFXSR|OSXMMEXCPT
		code = append(code, 0x0f, 0x22, 0xe0)                                             // mov cr4, rax
		code = le.AppendUint32(append(code, 0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x25), scratch) // lock cmpxchg16b [scratch]
		code = le.AppendUint32(append(code, 0x0f, 0xae, 0x04, 0x25), scratch+0x200)       // fxsave [scratch+0x200]
		code = le.AppendUint32(append(code, 0x0f, 0xae, 0x0c, 0x25), scratch+0x200)       // fxrstor [scratch+0x200]
	}
	code = append(code, 0x66, 0xba, 0xf8, 0x03) // mov dx, 0x3f8
	for _, c := range []byte(TrialWord) {
		code = append(code, 0xb0, c, 0xee) // mov al, c; out dx, al
	}
	if kind == TrialTicking {
		code = append(code,
			0xb9, 0x00, 0x00, 0x01, 0x00, // again: mov ecx, 65536
			0xff, 0xc9, // count: dec ecx
			0x75, 0xfc, // jnz count
			0xb0, '.', 0xee, // mov al, '.'; out dx, al
			0xeb, 0xf2, // jmp again
		)
	} else {
		code = append(code, 0xb0, 0xfe, 0xe6, 0x64) // mov al, 0xfe; out 0x64, al: the keyboard controller resets
		code = append(code, 0xf4, 0xeb, 0xfd)       // hlt, again
	}

	const headerSize, programSize, room = 64, 56, 0x2000
	elf := append([]byte("\x7fELF"), 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	elf = le.AppendUint16(elf, 2)  // executable
	elf = le.AppendUint16(elf, 62) // x86-64
	elf = le.AppendUint32(elf, 1)
	for _, v := range []uint64{load, headerSize, 0} { // entry, programs, sections
		elf = le.AppendUint64(elf, v)
	}
	elf = le.AppendUint32(elf, 0)
	for _, v := range []uint16{headerSize, programSize, 1, 0, 0, 0} {
		elf = le.AppendUint16(elf, v)
	}
	const loadable, readWriteExecute = 1, 7
	elf = le.AppendUint32(le.AppendUint32(elf, loadable), readWriteExecute)
	for _, v := range []uint64{headerSize + programSize, load, load, uint64(len(code)), room, 8} {
		elf = le.AppendUint64(elf, v)
	}
	return append(elf, code...)
}
