package debian

// Tests use what npm installed without making an image of it.
var FetchNode = Config.fetchNode
