package nimbus

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// OwnLabel is the label that makes a GitHub job ours. Jobs without it are
// somebody else's and are ignored politely.
const OwnLabel = "nimbus"

// plainLabels decide nothing: they say of any job that it is for us.
var plainLabels = []string{OwnLabel, "self-hosted", "linux"}

// IsPlainLabel tells whether a label in lower case says nothing about a job:
// nearly every one has it.
func IsPlainLabel(label string) bool { return slices.Contains(plainLabels, label) }

// Sizes in words. A job gets that much, unless a number in another label asks
// for more.
const (
	MediumCPUs    = 4
	HighCPUs      = 8
	HighMemoryMiB = 32 << 10
)

// MaxMetadata is how many pieces of metadata a job may have.
const MaxMetadata = 32

// Words that ask a host for a capability as they are. Those of one's own hosts
// are asked for as cap:WORD.
var capabilityWords = []string{
	"pytorch", "tensorflow", "jax", "onnx", "vllm", "triton", // software that images on the host have been tried with
	"cuda", "rocm", "nvlink", "avx2", "avx512", "amx", "kvm", "storage-nvme", // hardware
}

// capabilityFamilies are capabilities with a version: cuda-12, sm_90.
var capabilityFamilies = []string{"cuda-", "rocm-", "sm_"}

// labelForms is what unknown labels are compared with, and what is told of.
var labelForms = slices.Concat(plainLabels, []string{"x64", "amd64", "arm64"}, Executors(),
	[]string{"cpu-medium", "cpu-high", "memory-high"}, capabilityWords,
	[]string{"image:NAME", "cpu:N", "memory:GIB", "gpu-count:N", "gpu-profile:NAME", "mig:NAME", "gpu-image:NAME", "network:internet", "network:none", "reach:NAME",
		"cap:WORD", "param:KEY=VALUE", "meta:KEY"})

// Requirements are what the labels of a job ask for.
type Requirements struct {
	Class Class // its executor is empty where no label names one
	// Metadata is kept with the job and asked of nobody: "param:k=v" is k with
	// the value v, "meta:k" is k without one.
	Metadata map[string]string
}

// LabelError tells why labels make no class.
type LabelError struct {
	Reason Reason
}

// Error returns the sentence.
func (e *LabelError) Error() string { return e.Reason.Message }

// ParseLabels turns runs-on labels into what they ask for. Labels are compared
// without case, as GitHub does. Unknown or contradictory ones give a
// *LabelError whose reason is shown to the person who pushed.
func ParseLabels(labels []string) (Requirements, error) {
	p := labelParser{decided: map[string]decision{}, least: map[string]floor{}}
	for _, label := range labels {
		if err := p.add(label); err != nil {
			return Requirements{}, err
		}
	}
	return p.requirements()
}

// Aspects of a job that only one value can be had of.
const (
	aspectExecutor   = "executor"
	aspectArch       = "architecture"
	aspectImage      = "image"
	aspectCPUs       = "number of CPUs"
	aspectMemory     = "memory size"
	aspectGPUs       = "number of GPUs"
	aspectGPUProfile = "GPU profile"
	aspectNetwork    = "network profile"
	aspectParam      = "value of the parameter " // and its name
)

// labelParser is what the labels so far have decided.
type labelParser struct {
	decided  map[string]decision // by aspect
	least    map[string]floor    // sizes in words, by aspect
	needs    []string
	reach    []string
	metadata map[string]string
}

// decision is a value and the label that decided it.
type decision struct{ value, label string }

// floor is the least that a label asks for.
type floor struct {
	n     int
	label string
}

// add takes one label.
func (p *labelParser) add(label string) error {
	word, value, hasValue := strings.Cut(strings.ToLower(strings.TrimSpace(label)), ":")
	if hasValue {
		return p.addValue(label, word, value)
	}
	switch word {
	case "x64", "amd64":
		return p.decide(aspectArch, "amd64", label)
	case "arm64":
		return p.decide(aspectArch, "arm64", label)
	case "cpu-medium":
		return p.atLeast(aspectCPUs, MediumCPUs, label)
	case "cpu-high":
		return p.atLeast(aspectCPUs, HighCPUs, label)
	case "memory-high":
		return p.atLeast(aspectMemory, HighMemoryMiB, label)
	}
	switch {
	case IsPlainLabel(word):
		return nil
	case slices.Contains(Executors(), word):
		return p.decide(aspectExecutor, word, label)
	case isCapability(word):
		p.needs = append(p.needs, word)
		return nil
	}
	return unknownLabel(label, word)
}

func (p *labelParser) addValue(label, word, value string) error {
	switch word {
	case "image":
		return p.name(aspectImage, label, value, IsImageName(value))
	case "cpu":
		return p.number(aspectCPUs, label, value, 1, MaxCPUs)
	case "memory":
		return p.number(aspectMemory, label, value, 1024, MaxMemoryMiB/1024)
	case "gpu-count":
		return p.gpu(label, p.number(aspectGPUs, label, value, 1, MaxGPUs))
	case "gpu-profile", "mig": // a slice is a GPU of that profile
		return p.gpu(label, p.name(aspectGPUProfile, label, value, validWord(value)))
	case "gpu-image":
		return p.gpu(label, p.name(aspectImage, label, value, IsImageName(value)))
	case "network":
		return p.name(aspectNetwork, label, value, slices.Contains(NetworkProfiles(), NetworkProfile(value)))
	case "reach":
		if _, err := NamesOf(value); err != nil {
			return badLabel(label, "wants a name after the colon, like reach:example.com or reach:*.example.com: no scheme, port, path or address")
		}
		p.reach = append(p.reach, value)
		return p.decide(aspectNetwork, string(NetworkNames), label)
	case "cap":
		if !validWord(value) {
			return badLabel(label, "wants a word of letters, digits and ._- after the colon")
		}
		p.needs = append(p.needs, value)
		return nil
	case "param":
		key, _, ok := strings.Cut(value, "=")
		_, exact, _ := strings.Cut(label, "=") // a value keeps its case
		if !ok || !validWord(key) || !validValue(exact) {
			return badLabel(label, "wants KEY=VALUE after the colon")
		}
		return p.keep(label, key, strings.TrimSpace(exact))
	case "meta":
		if !validWord(value) {
			return badLabel(label, "wants a word of letters, digits and ._- after the colon; param:KEY=VALUE takes a value")
		}
		return p.keep(label, value, "")
	}
	return unknownLabel(label, word+":")
}

// decide settles an aspect, or finds that another label settled it otherwise.
func (p *labelParser) decide(aspect, value, label string) error {
	if before, ok := p.decided[aspect]; ok && before.value != value {
		return contradiction(before.label, label, "a job can have only one "+aspect)
	}
	p.decided[aspect] = decision{value, label}
	return nil
}

func (p *labelParser) name(aspect, label, value string, valid bool) error {
	if !valid {
		return badLabel(label, "has no valid "+aspect+" after the colon")
	}
	return p.decide(aspect, value, label)
}

func (p *labelParser) number(aspect, label, value string, unit, most int) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > most {
		return badLabel(label, fmt.Sprintf("wants a whole number from 1 to %d after the colon", most))
	}
	return p.decide(aspect, strconv.Itoa(n*unit), label)
}

func (p *labelParser) atLeast(aspect string, n int, label string) error {
	if n > p.least[aspect].n {
		p.least[aspect] = floor{n, label}
	}
	return nil
}

// gpu is for labels that make sense with GPUs alone.
func (p *labelParser) gpu(label string, err error) error {
	if err != nil {
		return err
	}
	return p.decide(aspectExecutor, ExecutorGPU, label)
}

// keep adds metadata.
func (p *labelParser) keep(label, key, value string) error {
	if err := p.decide(aspectParam+key, value, label); err != nil {
		return err
	}
	if p.metadata == nil {
		p.metadata = map[string]string{}
	}
	p.metadata[key] = value
	if len(p.metadata) > MaxMetadata {
		return badLabel(label, fmt.Sprintf("is one too many: a job has at most %d pieces of metadata", MaxMetadata))
	}
	return nil
}

// requirements are what all labels together ask for.
func (p *labelParser) requirements() (Requirements, error) {
	for aspect, least := range p.least {
		d, ok := p.decided[aspect]
		if n, _ := strconv.Atoi(d.value); ok && n < least.n {
			return Requirements{}, contradiction(least.label, d.label, fmt.Sprintf("%s is for at least %s", clip(least.label), quantity(aspect, least.n)))
		} else if !ok {
			p.decided[aspect] = decision{strconv.Itoa(least.n), least.label}
		}
	}
	size := func(aspect string) int { n, _ := strconv.Atoi(p.decided[aspect].value); return n }
	needs, err := CapabilitiesOf(p.needs...)
	if err != nil {
		return Requirements{}, &LabelError{Reason{ReasonContradiction, err.Error()}}
	}
	reach, err := NamesOf(p.reach...)
	if err != nil {
		return Requirements{}, &LabelError{Reason{ReasonContradiction, err.Error()}}
	}
	class, err := Class{
		Executor: p.decided[aspectExecutor].value, Image: p.decided[aspectImage].value, Arch: p.decided[aspectArch].value,
		CPUs: size(aspectCPUs), MemoryMiB: size(aspectMemory), Network: NetworkProfile(p.decided[aspectNetwork].value),
		GPUs: size(aspectGPUs), GPUProfile: p.decided[aspectGPUProfile].value, Needs: needs, Reach: reach,
	}.Complete()
	if err != nil {
		return Requirements{}, &LabelError{Reason{ReasonContradiction, err.Error()}}
	}
	return Requirements{Class: class, Metadata: p.metadata}, nil
}

func quantity(aspect string, n int) string {
	if aspect == aspectMemory {
		return fmt.Sprintf("%d GiB of memory", n/1024)
	}
	return fmt.Sprintf("%d CPUs", n)
}

func isCapability(word string) bool {
	return slices.Contains(capabilityWords, word) || slices.ContainsFunc(capabilityFamilies, func(family string) bool {
		version, ok := strings.CutPrefix(word, family)
		return ok && version != "" && strings.Trim(version, "0123456789.") == ""
	})
}

// CheckLabels tells whether a job can have so many and so long labels, whatever
// they mean. Codes: too_large.
func CheckLabels(labels []string) error {
	if len(labels) > MaxLabels || slices.ContainsFunc(labels, func(l string) bool { return len(l) > MaxLabelBytes }) {
		return Errorf(CodeTooLarge, "a job has at most %d labels of %d bytes", MaxLabels, MaxLabelBytes)
	}
	return nil
}

// CheckMetadata tells whether metadata may be kept with a job. Codes: invalid.
func CheckMetadata(m map[string]string) error {
	if len(m) > MaxMetadata {
		return Errorf(CodeInvalid, "a job has at most %d pieces of metadata", MaxMetadata)
	}
	for key, value := range m {
		if !validWord(key) || value != "" && !validValue(value) {
			return Errorf(CodeInvalid, "%s=%s can't be kept as metadata", clip(key), clip(value)).
				WithHint("a key has lower case letters, digits and ._- only, a value is one line of at most %d bytes", MaxLabelBytes)
		}
	}
	return nil
}

// validValue keeps values of metadata to one line of text.
func validValue(v string) bool {
	return v != "" && len(v) <= MaxLabelBytes && strings.ToValidUTF8(v, "\x00") == v &&
		!strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func contradiction(a, b, why string) error {
	return &LabelError{Reason{ReasonContradiction, fmt.Sprintf("runs-on has both %q and %q: %s", clip(a), clip(b), why)}}
}

func badLabel(label, why string) error {
	return &LabelError{Reason{ReasonUnknownLabel, fmt.Sprintf("label %q %s", clip(label), why)}}
}

func unknownLabel(label, word string) error {
	if form := nearest(word); form != "" {
		return badLabel(label, fmt.Sprintf("means nothing to Nimbus: did you mean %s?", form))
	}
	return badLabel(label, "means nothing to Nimbus; it knows "+strings.Join(labelForms, ", "))
}

// nearest is the form that a word was probably meant to be, "" for none.
func nearest(word string) string {
	best, off := "", min(2, len(word)/3)+1
	if len(word) > MaxWordBytes {
		return ""
	}
	for _, form := range labelForms {
		name, _, valued := strings.Cut(form, ":")
		if valued {
			name += ":"
		}
		if d := distance(word, name); d < off {
			best, off = form, d
		}
	}
	return best
}

// distance is how many letters have to be added, removed, changed or swapped
// with their neighbour to make b of a.
func distance(a, b string) int {
	var older []int
	before := make([]int, len(b)+1)
	for j := range before {
		before[j] = j
	}
	for i := range len(a) {
		now := make([]int, len(b)+1)
		now[0] = i + 1
		for j := range len(b) {
			now[j+1] = before[j] + 1
			if a[i] == b[j] {
				now[j+1] = before[j]
			}
			now[j+1] = min(now[j+1], before[j+1]+1, now[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				now[j+1] = min(now[j+1], older[j-1]+1)
			}
		}
		older, before = before, now
	}
	return before[len(b)]
}
