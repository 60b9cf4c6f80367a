package debian

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/pierrec/lz4/v4"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
)

// modules are what a guest needs to reach its disks, network and agent, which
// comes by a serial port under QEMU and by vsock under Firecracker. What
// they depend on is found by itself.
var modules = []string{"virtio_mmio", "virtio_console", "virtio_blk", "virtio_net", "vmw_vsock_virtio_transport", "overlay", "squashfs"}

// maxKernelFile bounds one file of a kernel's package.
const maxKernelFile = 256 << 20

// kernel is what a kernel's package has.
type kernel struct {
	compressed []byte
	modules    map[string][]byte // by name
}

func readKernel(ctx context.Context, deb string) (kernel, error) {
	k := kernel{modules: map[string][]byte{}}
	err := eachFile(ctx, deb, func(h *tar.Header, r io.Reader) error {
		isKernel := strings.HasPrefix(h.Name, "boot/vmlinuz-")
		name, isModule := strings.CutSuffix(path.Base(h.Name), ".ko")
		if h.Typeflag != tar.TypeReg || !isKernel && !isModule {
			return nil
		}
		raw, err := io.ReadAll(io.LimitReader(r, maxKernelFile))
		if err != nil {
			return fmt.Errorf("read %s: %w", h.Name, err)
		}
		if isKernel {
			k.compressed = raw
		} else {
			k.modules[moduleName(name)] = raw
		}
		return nil
	})
	if err != nil {
		return k, fmt.Errorf("unpack kernel: %w", err)
	}
	return k, nil
}

// moduleName is how modules name each other.
func moduleName(file string) string { return strings.ReplaceAll(file, "-", "_") }

// write writes the kernel, and an archive of the modules of every machine.
func (k kernel) write(kernelPath, modulesPath string) error {
	vmlinux, err := uncompress(k.compressed)
	if err != nil {
		return fmt.Errorf("unpack kernel: %w", err)
	}
	if err := os.WriteFile(kernelPath, vmlinux, 0o644); err != nil {
		return fmt.Errorf("write kernel: %w", err)
	}
	return k.writeModules(modulesPath)
}

// uncompress takes the ELF kernel out of a bzImage: it boots faster, and not
// every monitor takes the other. See Documentation/x86/boot.rst for the header.
func uncompress(bz []byte) ([]byte, error) {
	const setupSects, payloadOffset, payloadLength, headerEnd = 0x1f1, 0x248, 0x24c, 0x250
	if len(bz) < headerEnd {
		return nil, errors.New("the package has no kernel")
	}
	sectors := int(bz[setupSects])
	if sectors == 0 {
		sectors = 4
	}
	start := uint64(sectors+1)*512 + uint64(binary.LittleEndian.Uint32(bz[payloadOffset:]))
	length := uint64(binary.LittleEndian.Uint32(bz[payloadLength:]))
	const sizeField = 4 // the unpacked size, behind the stream
	if length < sizeField || start+length > uint64(len(bz)) {
		return nil, errors.New("the kernel's payload lies outside of the file")
	}
	payload := bz[start : start+length-sizeField]
	if !bytes.HasPrefix(payload, []byte{0x02, 0x21, 0x4c, 0x18}) {
		return nil, errors.New("the kernel isn't compressed with LZ4, as Debian 12's is")
	}
	vmlinux, err := io.ReadAll(io.LimitReader(lz4.NewReader(bytes.NewReader(payload)), maxKernelFile))
	if err != nil {
		return nil, fmt.Errorf("uncompress the kernel: %w", err)
	}
	if !bytes.HasPrefix(vmlinux, []byte(elf.ELFMAG)) {
		return nil, errors.New("what the kernel holds is no ELF file")
	}
	return vmlinux, nil
}

// writeModules archives the modules with the order in which they load.
func (k kernel) writeModules(dst string) error {
	order, err := k.loadOrder(modules)
	if err != nil {
		return err
	}
	f, err := os.Create(dst)
	if err != nil {
		return fmt.Errorf("write modules: %w", err)
	}
	defer f.Close()
	buffered := bufio.NewWriter(f)
	archive := image.NewCpio(buffered)
	archive.Dir("modules")
	var list strings.Builder
	for _, name := range order {
		archive.File("modules/"+name+".ko", k.modules[name])
		fmt.Fprintf(&list, "%s.ko\n", name)
	}
	archive.File("modules/order", []byte(list.String()))
	if err := errors.Join(archive.Close(), buffered.Flush()); err != nil {
		return fmt.Errorf("write modules: %w", err)
	}
	return nil
}

// later are the modules of these names that not every machine has loaded, with
// what they depend on, in the order in which they load.
func (k kernel) later(names []string) ([]string, error) {
	first, err := k.loadOrder(modules)
	if err != nil {
		return nil, err
	}
	all, err := k.loadOrder(slices.Concat(modules, names))
	if err != nil {
		return nil, err
	}
	return all[len(first):], nil
}

// loadOrder puts every module behind those that it depends on.
func (k kernel) loadOrder(names []string) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		if name == "" || seen[name] {
			return nil
		}
		seen[name] = true
		raw, ok := k.modules[name]
		if !ok {
			return fmt.Errorf("the kernel has no module %s", name)
		}
		needs, err := depends(raw)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := visit(n); err != nil {
				return err
			}
		}
		order = append(order, name)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// depends reads what a module needs from its section .modinfo.
func depends(module []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, errors.New("it says nothing of itself")
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok {
			return strings.Split(moduleName(list), ","), nil
		}
	}
	return nil, nil
}
