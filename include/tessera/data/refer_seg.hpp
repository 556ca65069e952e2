#pragma once
/// Referring segmentation: refCLEF, refCOCO, refCOCO+, refCOCOg and gRefCOCO in the layout of the REFER tools,
/// `refer_seg/<set>/{refs(<by>).p, instances.json}` with images in `refer_seg/images/`.
///
/// Where the polygons of an object overlap the reference adds them up and trains on targets above 1; here a target is 0
/// or 1. Source: dvlab-research/LISA utils/refer_seg_dataset.py, utils/refer.py, utils/grefer.py, utils/dataset.py.
#include <memory>
#include <string_view>

#include "tessera/data/reader.hpp"

namespace tessera::data {

/// Training samples of one set ("refcoco"): up to `sentences` of all expressions about an image.
/// Throws RequestError: an unknown set, missing files.
std::unique_ptr<Reader> refer_seg_training(const std::filesystem::path& dataset_dir, std::string_view set,
                                           std::int64_t sentences);

/// Validation samples of one split ("refcoco", "unc", "testA"): all expressions about an image, one conversation each.
/// The set is looked for in `refer_seg/` and, as the reference does, in the data set folder itself.
std::unique_ptr<Reader> refer_seg_validation(const std::filesystem::path& dataset_dir, std::string_view set,
                                             std::string_view split_by, std::string_view split);

/// Whether a reference of split `stored` belongs to the split `wanted`: "testA" takes "testAB" too, "test" any test.
bool in_split(std::string_view stored, std::string_view wanted);

}  // namespace tessera::data
