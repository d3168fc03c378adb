"""Datasets that the field knows: where they are, whose they are, what their folders mean.

A folder is recognised by its whole set of class names and by nothing else, so that its licence travels into the
dataset card. Nothing else may depend on a name in this file.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from terradistill.data.scenes import DatasetInfo


@dataclass(frozen=True)
class KnownDataset:
    """A catalogue entry: the card's information and the class folders of the upstream release."""

    info: DatasetInfo
    classes: tuple[str, ...]


CATALOGUE: dict[str, KnownDataset] = {
    "eurosat": KnownDataset(
        DatasetInfo(
            name="eurosat",
            title="EuroSAT (RGB)",
            readable={"SeaLake": "sea or lake"},
            gsd_m=10.0,
            licence="MIT",
            citation="P. Helber, B. Bischke, A. Dengel, D. Borth. EuroSAT: A Novel Dataset and Deep Learning Benchmark "
            "for Land Use and Land Cover Classification. IEEE JSTARS 12(7), 2019.",
            hub_id="blanchon/EuroSAT_RGB",
            url="https://github.com/phelber/EuroSAT",
        ),
        (
            *("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop"),
            *("Residential", "River", "SeaLake"),
        ),
    ),
    "ucmerced": KnownDataset(
        DatasetInfo(
            name="ucmerced",
            title="UC Merced Land Use",
            readable={
                "baseballdiamond": "baseball diamond",
                "denseresidential": "dense residential",
                "golfcourse": "golf course",
                "mediumresidential": "medium residential",
                "mobilehomepark": "mobile home park",
                "parkinglot": "parking lot",
                "sparseresidential": "sparse residential",
                "storagetanks": "storage tanks",
                "tenniscourt": "tennis court",
            },
            gsd_m=0.3,
            licence="public domain (USGS)",
            citation="Y. Yang, S. Newsam. Bag-of-Visual-Words and Spatial Extensions for Land-Use Classification. "
            "ACM SIGSPATIAL GIS, 2010.",
            hub_id="blanchon/UC_Merced",
            url="http://weegee.vision.ucmerced.edu/datasets/landuse.html",
        ),
        (
            *("agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential"),
            *("forest", "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark"),
            *("overpass", "parkinglot", "river", "runway", "sparseresidential", "storagetanks", "tenniscourt"),
        ),
    ),
    "aid": KnownDataset(
        DatasetInfo(
            name="aid",
            title="AID",
            licence="unspecified (research use)",
            citation="G.-S. Xia et al. AID: A Benchmark Data Set for Performance Evaluation of Aerial Scene "
            "Classification. IEEE TGRS 55(7), 2017.",
            hub_id="blanchon/AID",
            url="https://captain-whu.github.io/AID/",
        ),
        (
            *("Airport", "BareLand", "BaseballField", "Beach", "Bridge", "Center", "Church", "Commercial"),
            *("DenseResidential", "Desert", "Farmland", "Forest", "Industrial", "Meadow", "MediumResidential"),
            *("Mountain", "Park", "Parking", "Playground", "Pond", "Port", "RailwayStation", "Resort", "River"),
            *("School", "SparseResidential", "Square", "Stadium", "StorageTanks", "Viaduct"),
        ),
    ),
    "resisc45": KnownDataset(
        DatasetInfo(
            name="resisc45",
            title="NWPU-RESISC45",
            licence="CC-BY-NC-4.0",
            citation="G. Cheng, J. Han, X. Lu. Remote Sensing Image Scene Classification: Benchmark and State of the "
            "Art. Proceedings of the IEEE 105(10), 2017.",
            hub_id="timm/resisc45",
            url="https://gcheng-nwpu.github.io/",
        ),
        (
            *("airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge", "chaparral", "church"),
            *("circular_farmland", "cloud", "commercial_area", "dense_residential", "desert", "forest", "freeway"),
            *("golf_course", "ground_track_field", "harbor", "industrial_area", "intersection", "island", "lake"),
            *("meadow", "medium_residential", "mobile_home_park", "mountain", "overpass", "palace", "parking_lot"),
            *("railway", "railway_station", "rectangular_farmland", "river", "roundabout", "runway", "sea_ice", "ship"),
            *("snowberg", "sparse_residential", "stadium", "storage_tank", "tennis_court", "terrace"),
            *("thermal_power_station", "wetland"),
        ),
    ),
    "rsscn7": KnownDataset(
        DatasetInfo(
            name="rsscn7",
            title="RSSCN7",
            # The release prefixes its folders with a letter that fixes their order.
            readable={
                "aGrass": "grass",
                "bField": "field",
                "cIndustry": "industry",
                "dRiverLake": "river or lake",
                "eForest": "forest",
                "fResident": "residential area",
                "gParking": "parking lot",
            },
            licence="unspecified",
            citation="Q. Zou, L. Ni, T. Zhang, Q. Wang. Deep Learning Based Feature Selection for Remote Sensing Scene "
            "Classification. IEEE GRSL 12(11), 2015.",
            hub_id="jonathan-roberts1/RSSCN7",
            url="https://github.com/palewithout/RSSCN7",
        ),
        ("aGrass", "bField", "cIndustry", "dRiverLake", "eForest", "fResident", "gParking"),
    ),
    "whu-rs19": KnownDataset(
        DatasetInfo(
            name="whu-rs19",
            title="WHU-RS19",
            licence="unspecified",
            citation="D. Dai, W. Yang. Satellite Image Classification via Two-Layer Sparse Coding with Biased Image "
            "Representation. IEEE GRSL 8(1), 2011.",
            hub_id="jonathan-roberts1/WHU-RS19",
            url="https://captain-whu.github.io/BED4RS/",
        ),
        (
            *("Airport", "Beach", "Bridge", "Commercial", "Desert", "Farmland", "footballField", "Forest"),
            *("Industrial", "Meadow", "Mountain", "Park", "Parking", "Pond", "Port", "railwayStation"),
            *("Residential", "River", "Viaduct"),
        ),
    ),
    "patternnet": KnownDataset(
        DatasetInfo(
            name="patternnet",
            title="PatternNet",
            licence="unspecified (research use)",
            citation="W. Zhou, S. Newsam, C. Li, Z. Shao. PatternNet: A Benchmark Dataset for Performance Evaluation "
            "of Remote Sensing Image Retrieval. ISPRS Journal 145, 2018.",
            hub_id="jonathan-roberts1/PatternNet",
            url="https://sites.google.com/view/zhouwx/dataset",
        ),
        (
            *("airplane", "baseball_field", "basketball_court", "beach", "bridge", "cemetery", "chaparral"),
            *("christmas_tree_farm", "closed_road", "coastal_mansion", "crosswalk", "dense_residential"),
            *("ferry_terminal", "football_field", "forest", "freeway", "golf_course", "harbor", "intersection"),
            *("mobile_home_park", "nursing_home", "oil_gas_field", "oil_well", "overpass", "parking_lot"),
            *("parking_space", "railway", "river", "runway", "runway_marking", "shipping_yard", "solar_panel"),
            *("sparse_residential", "storage_tank", "swimming_pool", "tennis_court", "transformer_station"),
            "wastewater_treatment_plant",
        ),
    ),
    "siri-whu": KnownDataset(
        DatasetInfo(
            name="siri-whu",
            title="SIRI-WHU",
            gsd_m=2.0,
            licence="unspecified",
            citation="B. Zhao, Y. Zhong, G.-S. Xia, L. Zhang. Dirichlet-Derived Multiple Topic Scene Classification "
            "Model for High Spatial Resolution Remote Sensing Imagery. IEEE TGRS 54(4), 2016.",
            hub_id="jonathan-roberts1/SIRI-WHU",
            url="http://www.lmars.whu.edu.cn/prof_web/zhongyanfei/e-code.html",
        ),
        (
            *("agriculture", "commercial", "harbor", "idle_land", "industrial", "meadow", "overpass", "park"),
            *("pond", "residential", "river", "water"),
        ),
    ),
    "optimal-31": KnownDataset(
        DatasetInfo(
            name="optimal-31",
            title="OPTIMAL-31",
            licence="unspecified",
            citation="Q. Wang, S. Liu, J. Chanussot, X. Li. Scene Classification with Recurrent Attention of VHR "
            "Remote Sensing Images. IEEE TGRS 57(2), 2019.",
            hub_id="jonathan-roberts1/Optimal-31",
            url="https://huggingface.co/datasets/jonathan-roberts1/Optimal-31",
        ),
        (
            *("airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge", "chaparral", "church"),
            *("circular_farmland", "commercial_area", "dense_residential", "desert", "forest", "freeway"),
            *("golf_course", "ground_track_field", "harbor", "industrial_area", "intersection", "island", "lake"),
            *("meadow", "medium_residential", "mobile_home_park", "mountain", "overpass", "parking_lot", "railway"),
            *("rectangular_farmland", "roundabout", "runway"),
        ),
    ),
}


def identify(classes: Collection[str]) -> DatasetInfo | None:
    """The known dataset with exactly these class names (upper or lower case), its readable names keyed as given here.

    Args:
        classes: class names of a folder.

    Returns:
        The catalogue's information, or None for a dataset that it doesn't know.
    """
    for known in CATALOGUE.values():
        if _folded(known.classes) == _folded(classes):
            words = {name.casefold(): text for name, text in known.info.readable.items()}
            given = {name: words[name.casefold()] for name in classes if name.casefold() in words}
            return replace(known.info, readable=given)
    return None


def _folded(names: Iterable[str]) -> set[str]:
    return {name.casefold() for name in names}
