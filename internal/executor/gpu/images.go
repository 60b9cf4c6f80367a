package gpu

import (
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
)

// AnyFramework is the name under which the image is set of jobs that name none
// and no framework.
const AnyFramework = "gpu"

// Frameworks are the words that images can be set for.
func Frameworks() []string {
	return []string{"pytorch", "tensorflow", "jax", "onnx", "vllm", "triton", AnyFramework}
}

// imageOf is the image that a job gets: the one that it names, else that which
// the operator has set for its framework.
func (e *Executor) imageOf(class nimbus.Class) (string, error) {
	if class.Image != nimbus.DefaultImage {
		return class.Image, nil
	}
	var words, images []string
	for _, word := range class.Needs.Words() {
		if word == AnyFramework || !slices.Contains(Frameworks(), word) {
			continue
		}
		image := e.cfg.Images[word]
		if image == "" {
			return "", &executor.ImageError{Err: nimbus.Errorf(nimbus.CodeNotFound, "this host has no image for %s", word).
				WithHint("name one by gpu-image:NAME, or have the host's operator set one: --gpu-image %s=REFERENCE", word)}
		}
		words, images = append(words, word), append(images, image)
	}
	slices.Sort(images)
	if images = slices.Compact(images); len(images) > 1 {
		return "", &executor.ImageError{Err: nimbus.Errorf(nimbus.CodeInvalid, "%s have images of their own on this host, and a job has one", strings.Join(words, " and ")).
			WithHint("name one that has both by gpu-image:NAME")}
	}
	if len(images) == 1 {
		return images[0], nil
	}
	if image := e.cfg.Images[AnyFramework]; image != "" {
		return image, nil
	}
	return class.Image, nil
}
