package guestlink

// ImageFault begins the line of a machine's console on which its guest says that
// it can't start for what the image is, before anything of the image's has run.
const ImageFault = "nimbus-guest: image: "
